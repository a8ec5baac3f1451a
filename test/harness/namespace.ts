import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { getTools, NO_BUILD } from "../cluster/tools.ts";

/** Limit of a test inside a namespace, in milliseconds: real nodes and proxies start there. */
const TEST_MS = 180_000;

/** The reason why tests cannot have a network namespace of their own here; null when they can. */
export function namespaceMissing(): string | null {
  if (process.getuid?.() !== 0) return "needs root, for a network namespace";
  const { status } = spawnSync("setpriv", ["--", "unshare", "--net", "ip", "link", "set", "lo", "up"]);
  return status === 0
    ? null
    : "needs unshare, setpriv and ip (Debian: util-linux, iproute2), and a kernel that makes network namespaces";
}

/**
 * Environment of a process in a namespace without a route. Downloads and builds fail there immediately, with the
 * reason: a missing program must be in the `tools` of {@link startInNamespace}.
 */
const OFFLINE = {
  [NO_BUILD]: "this network namespace has no route; get the program before entering it",
  GOPROXY: "off",
  GOTOOLCHAIN: "local",
  npm_config_offline: "true",
  npm_config_update_notifier: "false",
};

/**
 * Starts Node with these arguments in a network namespace with only loopback, after it has built the tools of the
 * process: the namespace has no route for downloads. The process ends with this one, for any reason.
 */
export async function startInNamespace(
  args: readonly string[],
  options: { tools: readonly string[]; stdio: ["ignore" | "inherit", "pipe" | "inherit", "inherit"]; env?: object },
): Promise<ChildProcess> {
  await getTools(options.tools);
  const inside = 'ip link set lo up && exec "$@"';
  const node = [process.execPath, ...args];
  // Each program replaces itself by the next one, so that `--pdeathsig` applies to the last one.
  const command = ["--pdeathsig", "KILL", "--", "unshare", "--net", "--", "sh", "-c", inside, "sh", ...node];
  const { stdio, env } = options;
  const child = spawn("setpriv", command, { stdio, env: { ...process.env, ...OFFLINE, ...env } });
  process.once("exit", () => child.kill("SIGKILL"));
  return child;
}

/**
 * Runs a test file in a network namespace with only loopback. There it may add any address, and no packet leaves. Its
 * output is printed. @param tools programs of the test cluster that the file needs; they are built before @throws Error
 * when one of its tests fails
 */
export async function runInNamespace(file: URL, tools: readonly string[] = []): Promise<void> {
  const child = await startInNamespace(["--test-reporter=spec", `--test-timeout=${TEST_MS}`, file.pathname], {
    tools,
    stdio: ["ignore", "pipe", "inherit"],
    env: { NODE_TEST_CONTEXT: undefined },
  });
  let text = "";
  child.stdout!.on("data", (chunk: Buffer) => {
    text += chunk;
  });
  const print = () => console.error(text.replace(/^/gm, "    "));
  // After a time-out: what it printed until then.
  process.once("exit", print);
  const [status] = (await once(child, "close")) as [number | null];
  process.off("exit", print);
  print();
  const passed = Number(/ℹ pass (\d+)/.exec(text)?.[1] ?? 0);
  if (status !== 0 || passed === 0) throw new Error(`${passed} tests passed, exit status ${status}: see above`);
}
