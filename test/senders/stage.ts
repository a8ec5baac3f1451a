import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { type Finished, finish } from "../harness/finish.ts";
import type { Netns } from "../harness/netns.ts";

/** Receivers and programs in network namespaces without a route out. */

/** Starts the receivers of these addresses. `folder`: has `key.pem`, and the certificate `ca.pem`. */
export async function startReceiver(net: Netns, addresses: readonly string[], folder: string): Promise<ChildProcess> {
  const file = new URL("../proxy/senders/receiver.mjs", import.meta.url).pathname;
  const files = [join(folder, "key.pem"), join(folder, "ca.pem")];
  const args = ["netns", "exec", net.internet, process.execPath, file, addresses.join(), "", ...files];
  const child = spawn("ip", args, { stdio: ["ignore", "pipe", "inherit"] });
  assert.deepEqual(await once(createInterface({ input: child.stdout }), "line"), ["ready"]);
  return child;
}

/** A run of a command beside the proxy. */
interface Run {
  command: readonly string[];
  env: Readonly<Record<string, string>>;
  /** Files that the command sees in the place of others: path → file. */
  mounts: Readonly<Record<string, string>>;
  ms: number;
}

/** Runs a command in the network namespace of the proxy. */
export function runInside(net: Netns, { command, env, mounts, ms }: Run): Promise<Finished> {
  const binds = Object.entries(mounts).map(([path, file]) => `mount --bind ${file} ${path} && `);
  const inside = ["sh", "-c", `${binds.join("")}exec "$@"`, "sh", ...command];
  const { PATH, HOME } = process.env;
  const child = spawn("ip", ["netns", "exec", net.inside, ...inside], {
    env: { PATH, HOME, ...env },
    stdio: ["ignore", "pipe", "pipe"],
    timeout: ms,
  });
  return finish(child);
}
