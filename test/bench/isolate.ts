import { execFileSync, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** Runs the benchmark in its own namespaces, with loopback only. */

/** The proxy has its own core; all other programs share the other one. */
export const PROXY_CORE = 0;
export const OTHER_CORE = 1;

const INSIDE = "OUTRIDER_BENCH_INSIDE";
/** Ports for closed-loop connections, most of which wait in TIME_WAIT; fixed ports of the benchmark are lower. */
const PORT_RANGE = "16384 65535";

/** Whether the network of this process has only loopback. */
function onlyLoopback(): boolean {
  const lines = readFileSync("/proc/net/dev", "utf8").trim().split("\n").slice(2);
  return lines.every((line) => line.trim().startsWith("lo:"));
}

/** Whether this process is the one inside of the namespaces. */
export const isIsolated = (): boolean => process.env[INSIDE] !== undefined;

/** Sets up loopback, names from our own DNS server, and no other hosts. */
function furnish(): void {
  execFileSync("ip", ["link", "set", "lo", "up"]);
  writeFileSync("/proc/sys/net/ipv4/ip_local_port_range", PORT_RANGE);
  writeFileSync("/proc/sys/net/ipv4/tcp_tw_reuse", "1");
  const folder = mkdtempSync(join(tmpdir(), "outrider-bench-"));
  execFileSync("mount", ["-t", "tmpfs", "tmpfs", folder]);
  const files = { "resolv.conf": "nameserver 127.0.0.1\n", hosts: "127.0.0.1 localhost\n" };
  for (const [name, text] of Object.entries(files)) {
    writeFileSync(join(folder, name), text);
    execFileSync("mount", ["--bind", join(folder, name), `/etc/${name}`]);
  }
}

/**
 * Runs this command again in its own network, mount and process namespaces, on `core`, and exits with its status;
 * returns only inside. All its processes end with the first one.
 */
export async function isolate(core: number): Promise<void> {
  if (isIsolated()) {
    if (!onlyLoopback() || process.pid !== 1)
      throw new Error(`${INSIDE} is set, but this process is not in its own namespace`);
    for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.once(signal, () => process.exit(130));
    furnish();
    return;
  }
  const unshare = ["--net", "--mount", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc"];
  const command = ["taskset", "-c", `${core}`, process.execPath, ...process.execArgv, ...process.argv.slice(1)];
  const child = spawn("unshare", [...unshare, ...command], {
    stdio: "inherit",
    env: { ...process.env, [INSIDE]: "1" },
  });
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => child.kill(signal));
  const status = await new Promise<number>((resolve, reject) => {
    child.once("error", reject);
    child.once("exit", (code) => resolve(code ?? 1));
  });
  process.exit(status);
}
