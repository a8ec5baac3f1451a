import { type ChildProcess, execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { chmodSync, existsSync, mkdtempSync, openSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { processTree } from "./cpu.ts";
import type { Route } from "./wire.ts";

/** The measured proxies: how each is started, with the configuration of `peers/`, and how to connect to it. */

const ROOT = new URL("../..", import.meta.url).pathname;
const CONFIGS = new URL("peers/", import.meta.url).pathname;
const START_MS = 15_000;

/** Ports of one start of a proxy. */
interface Ports {
  tunnel: number;
  http: number;
  admin: number;
}

export interface Peer {
  name: string;
  /** The package to install when it is missing. */
  needs: string;
  command(folder: string, ports: Ports): string[] | null;
  version(): string;
  /** A relay has one port for each port of the origin, and supports neither CONNECT nor refusals. */
  relay?: boolean;
}

const onPath = (program: string): string | null => {
  const found = spawnSync("sh", ["-c", `PATH=$PATH:/usr/sbin:/sbin command -v ${program}`], { encoding: "utf8" });
  return found.status === 0 ? found.stdout.trim() : null;
};

const firstLine = (command: string, ...args: string[]): string => {
  const { stdout, stderr } = spawnSync(command, args, {
    encoding: "utf8",
    env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin" },
  });
  return `${stdout}${stderr}`.split("\n")[0]!.trim();
};

const program = (name: string, args: (folder: string) => string[]): Peer["command"] => {
  return (folder) => {
    const path = onPath(name);
    return path === null ? null : [path, ...args(folder)];
  };
};

/** The command of users, in one checkout. */
function outriderCommand(root: string): Peer["command"] {
  return (folder, ports) => {
    const listen = ["--listen", `127.0.0.1:${ports.tunnel}`, "--admin", `127.0.0.1:${ports.admin}`];
    const policy = ["--policy", join(folder, "outrider.yaml"), "--allow-cidr", "127.0.0.0/8"];
    return [join(root, "bin/outrider"), "proxy", ...policy, ...listen];
  };
}

/** Another checkout of this project with its packages installed, as a peer named `other`. */
export function otherCheckout(root: string): Peer {
  return { name: "other", needs: `make install in ${root}`, command: outriderCommand(root), version: () => root };
}

export const PEERS: readonly Peer[] = [
  {
    name: "outrider",
    needs: "",
    command: outriderCommand(ROOT),
    version: () => `Node.js ${process.version}`,
  },
  {
    name: "squid",
    needs: "apt-get install squid",
    command: program("squid", (folder) => ["-N", "-f", join(folder, "squid.conf")]),
    version: () => firstLine("squid", "-v"),
  },
  {
    name: "tinyproxy",
    needs: "apt-get install tinyproxy",
    command: program("tinyproxy", (folder) => ["-d", "-c", join(folder, "tinyproxy.conf")]),
    version: () => firstLine("tinyproxy", "-v"),
  },
  {
    name: "nginx",
    needs: "apt-get install nginx libnginx-mod-stream",
    command: program("nginx", (folder) => ["-e", "stderr", "-p", folder, "-c", join(folder, "nginx.conf")]),
    version: () => firstLine("nginx", "-v"),
    relay: true,
  },
  {
    name: "smokescreen",
    needs: "SMOKESCREEN=path of its binary",
    command: (folder, ports) => {
      const path = process.env.SMOKESCREEN;
      if (path === undefined || !existsSync(path)) return null;
      const listen = ["--listen-ip", "127.0.0.1", "--listen-port", `${ports.tunnel}`];
      return [path, ...listen, "--egress-acl-file", join(folder, "smokescreen.yaml"), "--allow-range", "127.0.0.0/8"];
    },
    version: () => firstLine(process.env.SMOKESCREEN!, "--version"),
  },
];

/** A running proxy. */
export interface Running {
  name: string;
  /** Null: this proxy does not support it. */
  route(what: "tunnel" | "http" | "refused"): Route | null;
  /** Its processes, including helpers and workers. */
  pids(): number[];
  stop(): Promise<void>;
}

function configFolder(ports: Ports): string {
  const folder = mkdtempSync(join(tmpdir(), "outrider-bench-"));
  chmodSync(folder, 0o755);
  for (const name of readdirSync(CONFIGS)) {
    const text = readFileSync(join(CONFIGS, name), "utf8");
    const filled = text.replaceAll("@PORT@", `${ports.tunnel}`).replaceAll("@HTTP@", `${ports.http}`);
    writeFileSync(join(folder, name), filled.replaceAll("@FOLDER@", folder));
  }
  return folder;
}

function accepts(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host: "127.0.0.1", port }, () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", () => resolve(false));
  });
}

async function waitForPort(child: ChildProcess, port: number, name: string, log: string): Promise<void> {
  const end = Date.now() + START_MS;
  while (!(await accepts(port))) {
    if (child.exitCode !== null || Date.now() > end) {
      throw new Error(`${name} does not listen: ${readFileSync(log, "utf8").trim().slice(-1000)}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Whether this machine has it. */
export function isInstalled(peer: Peer): boolean {
  return peer.command("", { tunnel: 0, http: 0, admin: 0 }) !== null;
}

let started = 0;

/** The ports of the next proxy: fixed ones, since no other program is in this network. */
export function nextPorts(): Ports {
  const base = 4000 + 10 * started++;
  return { tunnel: base, http: base + 1, admin: base + 2 };
}

/** Starts a proxy on these cores (as of taskset) and waits until it listens. @throws its output when it does not */
export async function startPeer(
  peer: Peer,
  cores: string,
  more: { ports?: Ports; args?: string[] } = {},
): Promise<Running> {
  const ports = more.ports ?? nextPorts();
  const folder = configFolder(ports);
  const log = join(folder, "stderr");
  const command = [...peer.command(folder, ports)!, ...(more.args ?? [])];
  const child = spawn("taskset", ["-c", cores, ...command], { stdio: ["ignore", "ignore", openSync(log, "w")] });
  await waitForPort(child, ports.tunnel, peer.name, log);
  const http = peer.relay ? ports.http : ports.tunnel;
  const connectable = peer.relay !== true;
  return {
    name: peer.name,
    route: (what) => {
      if (what === "refused" && peer.relay) return null;
      return what === "http" ? { port: http, connect: false } : { port: ports.tunnel, connect: connectable };
    },
    pids: () => processTree(child.pid!),
    stop: async () => {
      if (child.exitCode !== null || child.signalCode !== null) return;
      const exited = once(child, "exit");
      // Kills the children first, while their parent is still known.
      for (const pid of processTree(child.pid!).reverse()) process.kill(pid, "SIGKILL");
      await exited;
    },
  };
}

/** Whether the outrider of this checkout has an option. */
export function outriderKnows(option: string): boolean {
  const help = execFileSync(join(ROOT, "bin/outrider"), ["proxy", "--help"], { encoding: "utf8" });
  return help.includes(`--${option} `);
}
