import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";

/** Why tests cannot have a network namespace of their own here; null when they can. */
export function namespaceMissing(): string | null {
  if (process.getuid?.() !== 0) return "needs root, for a network namespace";
  const { status } = spawnSync("setpriv", ["--", "unshare", "--net", "ip", "link", "set", "lo", "up"]);
  return status === 0
    ? null
    : "needs unshare, setpriv and ip (Debian: util-linux, iproute2), and a kernel that makes network namespaces";
}

/**
 * Runs a file of tests in a network namespace that has loopback alone: there it may give itself any address, and nothing
 * leaves. Its lines are printed. @throws Error when a test of it fails
 */
export async function runInNamespace(file: URL): Promise<void> {
  const inside = 'ip link set lo up && exec "$@"';
  const node = [process.execPath, "--test-reporter=spec", file.pathname];
  // Each becomes the next one: it ends with this process, however that ends.
  const command = ["--pdeathsig", "KILL", "--", "unshare", "--net", "--", "sh", "-c", inside, "sh", ...node];
  const child = spawn("setpriv", command, {
    stdio: ["ignore", "pipe", "inherit"],
    env: { ...process.env, NODE_TEST_CONTEXT: undefined },
  });
  process.once("exit", () => child.kill("SIGKILL"));
  let text = "";
  child.stdout.on("data", (chunk: Buffer) => {
    text += chunk;
  });
  const [status] = (await once(child, "close")) as [number | null];
  console.error(text.replace(/^/gm, "    "));
  const passed = Number(/ℹ pass (\d+)/.exec(text)?.[1] ?? 0);
  if (status !== 0 || passed === 0) throw new Error(`${passed} tests passed, exit status ${status}: see above`);
}
