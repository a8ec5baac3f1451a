import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { get } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { finish } from "./finish.ts";

const ROOT = new URL("../..", import.meta.url).pathname;
/** The command of users. */
export const OUTRIDER = join(ROOT, "bin/outrider");
/** Opens receivers on loopback, which no other option opens. */
export const OPEN_LOOPBACK = ["--allow-cidr", "127.0.0.0/8", "--allow-cidr", "::1/128"];
/** A loaded machine takes much longer than the usual second. */
const START_MS = 60_000;
/** A proxy that has not ended by then is killed, and its exit status is -1. */
const STOP_MS = 60_000;

/** A record from stdout. */
export type ProxyRecord = Record<string, unknown> & { target: string; verdict: string; code?: string };

export interface ProxyHandle {
  host: string;
  port: number;
  /** Of `--listen-tls`; NaN without it. */
  tlsPort: number;
  /** Of `--listen-external`; NaN without it. */
  externalPort: number;
  adminPort: number;
  pid: number;
  policyFile: string;
  url(user?: string, password?: string): string;
  records(): ProxyRecord[];
  /** Its open file descriptors. */
  handles(): number;
  /** Resident memory in MiB. */
  rss(): number;
  /** A page of its admin port, from this network namespace. */
  admin(path: string): Promise<{ status: number; text: string }>;
  /** Value of the metric of a bound. */
  bound(name: string): Promise<number>;
  /** Polls `/status` until it is as wanted, and returns it. */
  untilStatus(wanted: (status: ProxyStatus) => boolean, ms?: number): Promise<ProxyStatus>;
  waitRecord(predicate: (record: ProxyRecord) => boolean, ms?: number): Promise<ProxyRecord>;
  stderr(): string;
  /** Output that is not printable ASCII or line feeds; empty: none. */
  unprintable(): string;
  signal(signal: NodeJS.Signals): void;
  /** Stops it; returns its exit status. */
  stop(signal?: NodeJS.Signals): Promise<number>;
}

/** The fields of `/status` that tests use. */
export interface ProxyStatus {
  ready: boolean;
  phase: string;
  policyError: string | null;
  tls: {
    listen: string;
    external: string | null;
    certificateExpires: string;
    crlNextUpdate: string | null;
    error: string | null;
  } | null;
  policy: { name: string; hash: string } | null;
  active: number;
  connections: number;
  bufferedBytes: number;
  sources: { address: string; assigned: boolean }[];
  verification: { way: string; verified: boolean; observed: string[]; expected: string[]; error: string | null }[];
}

/** Options of a proxy under test. `policy`: file content, or the spec of a manifest. */
export interface ProxyOptions {
  policy?: string | object;
  args?: string[];
  env?: Record<string, string>;
  /** Use this file instead, and do not write it. */
  policyFile?: string;
  /** Lines of a hosts file. */
  hosts?: string;
  netns?: string;
  /** Its program; default: `bin/outrider`. */
  program?: string;
  /** A command that runs the proxy, such as `unshare` with its options. */
  within?: string[];
  /** Limit of open files (`ulimit -n`). */
  openFiles?: number;
  /** Address for clients; default: a free port of 127.0.0.1. */
  listen?: string;
  /** Its admin port; default: a free port of 127.0.0.1. */
  admin?: string;
}

const running = new Set<ChildProcess>();
const folders = new Set<string>();
process.on("exit", () => {
  for (const child of running) child.kill("SIGKILL");
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
});

/** A folder that is removed when this process ends. */
export function tempFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "outrider-test-"));
  folders.add(folder);
  return folder;
}

/** A manifest with this spec. */
export function manifest(spec: object): string {
  const metadata = { name: "test", namespace: "test" };
  return JSON.stringify({ apiVersion: "egress.outrider.dev/v1alpha1", kind: "EgressPolicy", metadata, spec });
}

/** Starts the real command and waits for its start-up line. */
export async function startProxy(options: ProxyOptions): Promise<ProxyHandle> {
  const folder = tempFolder();
  const policy = options.policyFile ?? join(folder, "policy.yaml");
  const content = options.policy ?? {};
  if (options.policyFile === undefined) {
    writeFileSync(policy, typeof content === "string" ? content : manifest(content));
  }
  const args = [
    "proxy",
    "--policy",
    policy,
    "--listen",
    options.listen ?? "127.0.0.1:0",
    "--admin",
    options.admin ?? "127.0.0.1:0",
  ];
  if (options.hosts !== undefined) {
    writeFileSync(join(folder, "hosts"), options.hosts);
    args.push("--hosts", join(folder, "hosts"));
  }
  args.push(...(options.args ?? []));
  const enter = options.netns === undefined ? [] : ["ip", "netns", "exec", options.netns];
  const limit =
    options.openFiles === undefined ? [] : ["sh", "-c", `ulimit -n ${options.openFiles} && exec "$@"`, "sh"];
  const command = [...enter, ...(options.within ?? []), ...limit, options.program ?? OUTRIDER];
  const { PROXY_PASSWORD: _, ...env } = process.env;
  const child = spawn(command[0]!, [...command.slice(1), ...args], {
    // Only the tests of draining wait for it.
    env: { OUTRIDER_DRAIN_DELAY_SECONDS: "0", OUTRIDER_DRAIN_SECONDS: "0", ...env, ...options.env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  running.add(child);
  let out = "";
  let err = "";
  let strange = "";
  const seen: ProxyRecord[] = [];
  const watchers = new Set<() => void>();
  child.stdout!.on("data", (chunk: Buffer) => {
    out += chunk;
    strange += chunk.toString("latin1").replace(/[\n\x20-\x7e]/g, "");
    const lines = out.split("\n");
    out = lines.pop()!;
    for (const line of lines) seen.push(JSON.parse(line) as ProxyRecord);
    for (const watcher of watchers) watcher();
  });
  child.stderr!.on("data", (chunk: Buffer) => {
    err += chunk;
    strange += chunk.toString("latin1").replace(/[\n\x20-\x7e]/g, "");
    for (const watcher of watchers) watcher();
  });
  child.once("exit", () => {
    running.delete(child);
    for (const watcher of watchers) watcher();
  });

  /** Waits until `probe` returns a value; checks after every output and at the exit. */
  const until = <T>(probe: () => T | undefined, ms: number, what: string) =>
    new Promise<T>((resolve, reject) => {
      const look = () => {
        let found: T | undefined;
        try {
          found = probe();
        } catch (error) {
          clearTimeout(timer);
          watchers.delete(look);
          reject(error);
          return true;
        }
        if (found === undefined) return false;
        clearTimeout(timer);
        watchers.delete(look);
        resolve(found);
        return true;
      };
      const timer = setTimeout(() => {
        watchers.delete(look);
        reject(new Error(`no ${what} within ${ms} ms; stderr: ${err}; records: ${JSON.stringify(seen.slice(-5))}`));
      }, ms);
      watchers.add(look);
      look();
    });

  const line = await until(
    () => {
      if (child.exitCode !== null) throw new Error(`the proxy ended with ${child.exitCode}: ${err}`);
      return err.split("\n").find((text) => text.includes('"msg":"listening"'));
    },
    START_MS,
    "start-up line",
  );
  const started = JSON.parse(line) as { listen: string; tls?: string; external?: string; admin: string };
  const portOf = (text: string) => (text === "" ? Number.NaN : Number(text.slice(text.lastIndexOf(":") + 1)));
  const port = portOf(started.listen);
  const admin = (path: string) =>
    new Promise<{ status: number; text: string }>((resolve, reject) => {
      // A connection of its own, like a probe of the kubelet: a kept-alive one may be closed just when it is used.
      const request = get({ host: "127.0.0.1", port: portOf(started.admin), path, agent: false }, (response) => {
        response.setEncoding("utf8");
        let text = "";
        response.on("data", (chunk: string) => {
          text += chunk;
        });
        response.on("end", () => resolve({ status: response.statusCode!, text }));
        response.on("error", reject);
      });
      request.on("error", reject);
    });
  return {
    host: "127.0.0.1",
    port,
    tlsPort: portOf(started.tls ?? ""),
    externalPort: portOf(started.external ?? ""),
    adminPort: portOf(started.admin),
    pid: child.pid!,
    policyFile: policy,
    url: (user = "", password = "") =>
      password === "" ? `http://127.0.0.1:${port}` : `http://${user}:${password}@127.0.0.1:${port}`,
    records: () => seen,
    handles: () => readdirSync(`/proc/${child.pid}/fd`).length,
    rss: () => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${child.pid}/status`, "utf8"))![1]) / 1024,
    admin,
    bound: async (name) => {
      const { text } = await admin("/metrics");
      return Number(new RegExp(`^outrider_proxy_bound_total\\{bound="${name}"\\} (\\d+)$`, "m").exec(text)![1]);
    },
    untilStatus: async (wanted, ms = 10_000) => {
      for (const began = Date.now(); ; ) {
        const { text } = await admin("/status");
        const status = JSON.parse(text) as ProxyStatus;
        if (wanted(status)) return status;
        if (Date.now() - began > ms) throw new Error(`the status is never as wanted: ${text}; stderr: ${err}`);
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
    },
    waitRecord: (predicate, ms = 10_000) => until(() => seen.find(predicate), ms, "such record"),
    stderr: () => err,
    unprintable: () => strange,
    signal: (signal) => child.kill(signal),
    stop: async (signal = "SIGTERM") => {
      if (child.exitCode === null) {
        child.kill(signal);
        const timer = setTimeout(() => child.kill("SIGKILL"), STOP_MS);
        // Not "exit": the last records may still be in the pipe.
        await once(child, "close");
        clearTimeout(timer);
      }
      return child.exitCode ?? -1;
    },
  };
}

/** Runs a command of outrider to its end. */
export async function runOutrider(args: string[], env: Record<string, string> = {}) {
  const { PROXY_PASSWORD: _, ...inherited } = process.env;
  const child = spawn(OUTRIDER, args, { env: { ...inherited, ...env }, stdio: ["ignore", "pipe", "pipe"] });
  running.add(child);
  const timer = setTimeout(() => child.kill("SIGKILL"), START_MS);
  const finished = await finish(child);
  clearTimeout(timer);
  running.delete(child);
  return finished;
}
