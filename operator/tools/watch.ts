import { setTimeout as sleep } from "node:timers/promises";
import { ApiError, type Client } from "../kube/client.ts";
import type { Resource } from "../kube/resource.ts";

/** Time between a change and the next output: a reconcile changes several objects. */
const SETTLE_MS = 300;
/** Delay after a broken watch. */
const RETRY_MS = 2000;
/** The server ends a watch after this time, and the next one begins. */
const WATCH_SECONDS = 300;

interface WatchedKind {
  resource: Resource;
  namespace: string | undefined;
  labelSelector?: string;
}

/** Calls back for each change of a kind, and after each gap. Rejects only if the caller has no right to watch. */
async function follow(client: Client, kind: WatchedKind, signal: AbortSignal, onChange: () => void): Promise<void> {
  const { resource, ...selection } = kind;
  while (!signal.aborted) {
    try {
      const { resourceVersion } = await client.list(resource, { ...selection, limit: 1, metadataOnly: true, signal });
      onChange();
      const options = { ...selection, resourceVersion, timeoutSeconds: WATCH_SECONDS, metadataOnly: true, signal };
      await client.watch(resource, { ...options, onEvent: onChange });
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof ApiError && (error.code === 403 || error.code === 401)) throw error;
      await sleep(RETRY_MS, undefined, { signal }).catch(() => {});
    }
  }
}

/**
 * Calls `show` at first and after changes, until the signal. An optional kind that the caller may not watch is left out.
 * A failed `show` is reported by `onError` and repeated with the next change.
 */
export async function onChanges(
  client: Client,
  kinds: { required: WatchedKind; optional: readonly WatchedKind[] },
  signal: AbortSignal,
  show: () => Promise<void>,
  onError: (error: unknown) => void,
): Promise<void> {
  let isDue = false;
  let wake = () => {};
  const change = () => {
    isDue = true;
    wake();
  };
  const failed = Promise.withResolvers<never>();
  // It may reject before the race below.
  failed.promise.catch(() => {});
  void follow(client, kinds.required, signal, change).catch(failed.reject);
  for (const kind of kinds.optional) void follow(client, kind, signal, change).catch(() => {});
  signal.addEventListener("abort", () => wake());
  await show();
  while (!signal.aborted) {
    const changed = new Promise<void>((resolve) => {
      wake = resolve;
      if (isDue || signal.aborted) resolve();
    });
    await Promise.race([changed, failed.promise]);
    await sleep(SETTLE_MS, undefined, { signal }).catch(() => {});
    if (signal.aborted) return;
    isDue = false;
    await show().catch(onError);
  }
}

/** A signal that aborts at SIGINT or SIGTERM. */
export function untilStopped(): AbortSignal {
  const controller = new AbortController();
  for (const name of ["SIGINT", "SIGTERM"] as const) process.once(name, () => controller.abort());
  return controller.signal;
}

const CLEAR = "\x1b[H\x1b[2J\x1b[3J";

/** Prints a new state: over the old one on a terminal, else below it. Equal states are printed once. */
export function makeScreen(isTerminal: boolean): (text: string) => void {
  let last: string | undefined;
  return (text) => {
    if (text === last) return;
    const before = isTerminal ? CLEAR : last === undefined ? "" : "\n";
    last = text;
    process.stdout.write(`${before}${text}\n`);
  };
}
