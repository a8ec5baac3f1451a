import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import { getTools, NO_BUILD } from "../cluster/tools.ts";

/** Limit of a test inside a namespace, in milliseconds: real nodes and proxies start there. */
const TEST_MS = 180_000;
/** Time for the process of such a file to end after its summary, in milliseconds. */
const END_MS = 30_000;

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

/** Threads of a process with what they wait for in the kernel, or an error if it has ended. */
function threadsOf(pid: number): string {
  try {
    const threads = readdirSync(`/proc/${pid}/task`).map((id) => {
      const read = (file: string) => readFileSync(`/proc/${pid}/task/${id}/${file}`, "utf8").trim();
      return `${read("comm")}: ${read("wchan")} ${read("syscall")}`;
    });
    return threads.join("; ");
  } catch (error) {
    return (error as Error).message;
  }
}

/**
 * Runs a test file in a network namespace with only loopback. There it may add any address, and no packet leaves. Its
 * output is printed. Node prints the summary when the event loop is empty, but a few of its processes do not end then:
 * such a process is killed, with a warning. @param tools programs of the test cluster that the file needs; they are built
 * before @throws Error when one of its tests fails
 */
export async function runInNamespace(file: URL, tools: readonly string[] = []): Promise<void> {
  const child = await startInNamespace(["--test-reporter=spec", `--test-timeout=${TEST_MS}`, file.pathname], {
    tools,
    stdio: ["ignore", "pipe", "inherit"],
    env: { NODE_TEST_CONTEXT: undefined },
  });
  let text = "";
  let ending: NodeJS.Timeout | undefined;
  let killed = false;
  const kill = () => {
    killed = true;
    console.error(`${file.pathname} did not end after its summary, and is killed: ${threadsOf(child.pid!)}`);
    child.kill("SIGKILL");
    // Another process may have it.
    child.stdout!.destroy();
  };
  child.stdout!.on("data", (chunk: Buffer) => {
    text += chunk;
    if (text.includes("ℹ duration_ms")) ending ??= setTimeout(kill, END_MS);
  });
  const print = () => console.error(text.replace(/^/gm, "    "));
  // After a time-out: what it printed until then.
  process.once("exit", print);
  const [status] = (await once(child, "close")) as [number | null];
  clearTimeout(ending);
  process.off("exit", print);
  print();
  const count = (what: string) => Number(new RegExp(`ℹ ${what} (\\d+)`).exec(text)?.[1] ?? 0);
  const passed = count("pass");
  const failed = killed ? count("fail") + count("cancelled") > 0 : status !== 0;
  if (failed || passed === 0) throw new Error(`${passed} tests passed, exit status ${status}: see above`);
}
