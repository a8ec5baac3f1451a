import { setTimeout as sleep } from "node:timers/promises";
import type { Logger } from "./cli/log.ts";
import type { Config } from "./config/config.ts";
import type { ProxyServer } from "./connections/server.ts";

/** Signals in the order of their arrival. Each call waits for the next one. */
export function makeSignals(names: readonly NodeJS.Signals[]): () => Promise<string> {
  const pending: string[] = [];
  let wake: ((signal: string) => void) | null = null;
  for (const name of names) {
    process.on(name, () => {
      if (wake === null) pending.push(name);
      else {
        wake(name);
        wake = null;
      }
    });
  }
  return () =>
    new Promise((resolve) => {
      const next = pending.shift();
      if (next === undefined) wake = resolve;
      else resolve(next);
    });
}

/**
 * The graceful shutdown: not ready but serving for the drain delay, then no new connections until the open ones have
 * ended or the drain time is over, then a reset of the rest. A second signal skips the waiting.
 */
export async function shutDown(
  server: ProxyServer,
  config: Config,
  log: Logger,
  second: Promise<string>,
): Promise<void> {
  server.phase = "leaving";
  const delay = config.drainDelaySeconds;
  log.info({ delaySeconds: delay }, "leaving: not ready, still serving; a second signal skips the waiting");
  let skipped = false;
  const skip = second.then(() => {
    skipped = true;
  });
  await Promise.race([sleep(delay * 1000), skip]);
  const { drainMs } = server.settings;
  log.info({ active: server.counts.active, drainSeconds: drainMs / 1000 }, "draining: no new connections");
  if (!skipped) await Promise.race([server.drain(), sleep(drainMs), skip]);
  const { active } = server.counts;
  if (active > 0) log.warn({ active }, "resetting open connections");
  await server.close();
}
