import { setTimeout as sleep } from "node:timers/promises";
import { ApiError, type Client } from "../kube/client.ts";
import type { Resource } from "../kube/resource.ts";
import { EXIT } from "./failure.ts";

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
async function follow(client: Client, kind: WatchedKind, onChange: () => void): Promise<never> {
  const { resource, ...selection } = kind;
  for (;;) {
    try {
      const { resourceVersion } = await client.list(resource, { ...selection, limit: 1, metadataOnly: true });
      onChange();
      const options = { ...selection, resourceVersion, timeoutSeconds: WATCH_SECONDS, metadataOnly: true };
      await client.watch(resource, { ...options, onEvent: onChange });
    } catch (error) {
      if (error instanceof ApiError && (error.code === 403 || error.code === 401)) throw error;
      await sleep(RETRY_MS);
    }
  }
}

/**
 * Calls `show` at first and after changes, until the process ends. An optional kind that the caller may not watch is left
 * out. A failed `show` is reported by `onError` and repeated with the next change.
 */
export async function onChanges(
  client: Client,
  kinds: { required: WatchedKind; optional: readonly WatchedKind[] },
  show: () => Promise<void>,
  onError: (error: unknown) => void,
): Promise<never> {
  let isDue = false;
  let wake = () => {};
  const change = () => {
    isDue = true;
    wake();
  };
  const failed = follow(client, kinds.required, change);
  // It may reject before the race below.
  failed.catch(() => {});
  for (const kind of kinds.optional) void follow(client, kind, change).catch(() => {});
  await show();
  for (;;) {
    const changed = new Promise<void>((resolve) => {
      wake = resolve;
      if (isDue) resolve();
    });
    await Promise.race([changed, failed]);
    await sleep(SETTLE_MS);
    isDue = false;
    await show().catch(onError);
  }
}

/** Makes SIGINT and SIGTERM the regular end of a watch, also while a call waits for its answer. */
export function endOnSignal(): void {
  for (const name of ["SIGINT", "SIGTERM"] as const) process.once(name, () => process.exit(EXIT.ok));
}

/** Clears the screen, and keeps the lines that scrolled away. */
const CLEAR = "\x1b[H\x1b[2J";

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
