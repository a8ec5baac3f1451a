import { type ChildProcess, fork, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { appendFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Baseline } from "../harness/baseline.ts";
import { type ProxyHandle, startProxy, tempFolder } from "../harness/proxy.ts";
import type { ClientsOrder, ClientsReport } from "./clients.ts";
import { faultOfRecord, faultsOfLog, Ledger, MAX_RSS_MIB, Violations } from "./invariants.ts";
import type { Options } from "./options.ts";
import { probe } from "./probe.ts";
import type { ReceiversReport, ReceiversStart } from "./receivers.ts";
import {
  DNS,
  describe,
  hostsFile,
  LOOPBACK_TRAPS,
  NAMESPACE_TRAPS,
  OWN_PASSWORDS,
  PASSWORD,
  PORT,
  PROBE_ADDRESS,
  PROXIED_CIDR,
  PYTHON_RECEIVERS,
  planOf,
  RECEIVER_CIDR,
  receiverAddress,
  receiverNumber,
} from "./world.ts";

const TRAP_PORTS = [PORT, 80];
/** More than the clients of a run need: only a leak reaches it. */
const MAX_TUNNELS = 1000;
const PROBE_EVERY_MS = 500;
const PROGRESS_MS = 10_000;
const SETTLE_MS = 20_000;
const RECORDS_MS = 5000;
const EXIT_MS = 10_000;

/** Attempts to reach an address without a route, as the kernel of this network namespace counts them. */
function unroutable(): number {
  const rows = readFileSync("/proc/net/snmp", "utf8").split("\n");
  const [names, values] = rows.filter((row) => row.startsWith("Ip: ")).map((row) => row.split(" "));
  return Number(values![names!.indexOf("OutNoRoutes")]);
}

/** Requests that a proxy has finished, as its metrics count them. */
async function requestsOf(proxy: ProxyHandle): Promise<number> {
  const { text } = await proxy.admin("/metrics");
  const counts = [...text.matchAll(/^outrider_proxy_requests_total\{.*\} (\d+)$/gm)];
  return counts.reduce((sum, [, count]) => sum + Number(count), 0);
}

/** One fuzz run: its processes, the load in rounds, and the checks between them. */
export class Run {
  readonly #options: Options;
  readonly #violations = new Violations();
  readonly #ledger = new Ledger();
  readonly #workers: ChildProcess[] = [];
  readonly #inside: boolean;
  readonly #forbidden: readonly string[];
  readonly #deadline: number;
  readonly #began = Date.now();
  #python: ChildProcess | null = null;
  #proxy!: ProxyHandle;
  #done = 0;
  /** Connections that were complete at the first violation. */
  #firstAt: number | undefined;
  /** Access records of the present proxy. */
  #records = 0;
  readonly #open = new Map<ChildProcess, number>();
  #probes: number[] = [];
  #probesFailed = 0;
  #maxRss = 0;

  /** `inside`: the run has a network namespace of its own, with {@link NAMESPACE_TRAPS} on its loopback interface. */
  constructor(options: Options, inside: boolean) {
    this.#options = options;
    this.#inside = inside;
    this.#forbidden = inside ? [...LOOPBACK_TRAPS, ...NAMESPACE_TRAPS] : LOOPBACK_TRAPS;
    this.#deadline = Date.now() + options.minutes * 60_000;
  }

  async start(): Promise<void> {
    const options = this.#options;
    const receivers = fork(new URL("receivers.ts", import.meta.url), {
      stdio: ["ignore", "inherit", "inherit", "ipc"],
    });
    const traps = this.#forbidden.flatMap((host) =>
      // Port 80 needs root, and may be in use outside of a namespace.
      TRAP_PORTS.filter((port) => port !== 80 || this.#inside).map((port) => ({ host, port })),
    );
    const start: ReceiversStart = { seed: options.seed, forbidden: [...this.#forbidden], traps };
    receivers.send(start);
    const ready = new Promise<void>((resolve, reject) => {
      receivers.on("message", (report: ReceiversReport) => {
        if ("ready" in report) resolve();
        else this.#violations.add("receiver", report.violation);
      });
      receivers.once("exit", (status) => reject(new Error(`the receivers ended with ${status}`)));
    });
    await ready;
    await this.#startPython();
    for (let i = 0; i < options.workers; i++) {
      this.#workers.push(
        fork(new URL("clients.ts", import.meta.url), { stdio: ["ignore", "inherit", "inherit", "ipc"] }),
      );
    }
  }

  async #startPython(): Promise<void> {
    const { receivers } = this.#options.choice;
    const missing = spawnSync("python3", ["-c", ""]).status !== 0;
    if (missing) {
      for (const kind of PYTHON_RECEIVERS) delete receivers[kind];
      console.log(`SKIPPED: python3 is missing; receivers left out: ${PYTHON_RECEIVERS.join(", ")}`);
      return;
    }
    const where = PYTHON_RECEIVERS.flatMap((kind) => [kind, receiverAddress(receiverNumber(kind)), `${PORT}`]);
    const script = new URL("deaf.py", import.meta.url).pathname;
    const child = spawn("python3", [script, `${this.#options.seed}`, ...where], { stdio: ["pipe", "pipe", "inherit"] });
    this.#python = child;
    await once(child.stdout!, "data");
  }

  async #startProxy(): Promise<Baseline> {
    const passwords = join(tempFolder(), "passwords");
    mkdirSync(passwords);
    for (const [name, password] of Object.entries(OWN_PASSWORDS)) writeFileSync(join(passwords, name), password);
    const ranges = ["--allow-cidr", RECEIVER_CIDR, "--resolver", `${DNS.host}:${DNS.port}`];
    const times = ["--dns-seconds", "4", "--connect-seconds", "4", "--idle-seconds", "4"];
    const balancers = ["--proxy-protocol", "required", "--proxy-protocol-from", PROXIED_CIDR];
    const limits = ["--max-tunnels", `${MAX_TUNNELS}`, ...times, ...balancers];
    this.#proxy = await startProxy({
      policy: { deny: [{ hosts: ["*.denied.test"] }], proxy: { limits: { maxTunnelsPerClient: 64 } } },
      args: [...ranges, ...limits, "--password-dir", passwords],
      // In a namespace the proxy also listens on the addresses of the receivers: its own ports must be refused there.
      ...(this.#inside ? { listen: ":0", admin: ":0" } : {}),
      env: { PROXY_PASSWORD: PASSWORD },
      hosts: hostsFile(),
    });
    this.#records = 0;
    // The first requests load and open what stays for good. The base line includes it.
    for (let i = 0; i < 3; i++) await this.#probe();
    const baseline = await Baseline.of(this.#proxy);
    this.#takeRecords();
    return baseline;
  }

  #takeRecords(): void {
    for (const record of this.#proxy.records().splice(0)) {
      if (this.#options.records !== undefined) appendFileSync(this.#options.records, `${JSON.stringify(record)}\n`);
      this.#records++;
      const fault = faultOfRecord(record);
      if (fault !== null) this.#violations.add("record", fault);
      const source = String(record.source);
      if (!source.startsWith(`${PROBE_ADDRESS}:`)) this.#ledger.found(source);
    }
  }

  async #probe(): Promise<void> {
    const { failures, ms } = await probe(this.#proxy.port);
    this.#probes.push(...ms);
    this.#probesFailed += failures.length;
    for (const failure of failures) {
      this.#violations.add("well-behaved delivery", `after ${this.#done} connections: ${failure}`);
    }
  }

  #alive(): boolean {
    const status = `/proc/${this.#proxy.pid}/status`;
    // A process that has ended keeps its entry, but no memory, until its parent reads its status.
    return existsSync(status) && readFileSync(status, "utf8").includes("VmRSS");
  }

  #stopClients(): void {
    for (const worker of this.#workers) worker.send({ stop: true });
  }

  #progress(): string {
    const seconds = (Date.now() - this.#began) / 1000;
    const sorted = [...this.#probes].sort((a, b) => a - b);
    const at = (share: number) => Math.round(sorted[Math.floor((sorted.length - 1) * share)] ?? 0);
    const open = [...this.#open.values()].reduce((sum, count) => sum + count, 0);
    const proxy = this.#alive()
      ? `proxy ${this.#proxy.rss().toFixed(0)} MiB, ${this.#proxy.handles()} files`
      : "the proxy has ended";
    return [
      `${seconds.toFixed(0)} s: ${this.#done} connections (${(this.#done / seconds).toFixed(0)}/s), ${open} open`,
      proxy,
      `well-behaved deliveries: ${this.#probes.length - this.#probesFailed} of ${this.#probes.length}`,
      `median ${at(0.5)} ms, 99 % ${at(0.99)} ms, longest ${at(1)} ms`,
      `violations: ${this.#violations.count}`,
    ].join("; ");
  }

  /** Adds a violation of a connection, with its kinds. */
  #blame(category: string, number: number, detail: string): void {
    const plan = planOf(this.#options.seed, number, this.#options.choice);
    this.#violations.add(category, `${describe(plan)}: ${detail}`, [plan.client, plan.receiver, plan.name]);
  }

  #take(worker: ChildProcess, report: ClientsReport): void {
    this.#open.set(worker, report.open);
    if (this.#violations.count > 0) this.#firstAt ??= this.#done;
    this.#done += report.results.length;
    for (const { source, number, expected } of report.results) this.#ledger.expect(source, number, expected);
    for (const { number, category, detail } of report.violations) this.#blame(category, number, detail);
  }

  async #load(first: number, last: number): Promise<void> {
    const { seed, choice, concurrency, workers, quick } = this.#options;
    const { port, adminPort } = this.#proxy;
    const forbidden = [...this.#forbidden];
    const finished = this.#workers.map(
      (worker, i) =>
        new Promise<void>((resolve, reject) => {
          const died = (status: number | null) => reject(new Error(`a process of clients ended with ${status}`));
          const hear = (report: ClientsReport) => {
            this.#take(worker, report);
            if (!report.finished) return;
            worker.off("message", hear);
            worker.off("exit", died);
            resolve();
          };
          worker.on("message", hear);
          worker.once("exit", died);
          const round = { first: first + i, last, step: workers };
          const share = Math.ceil(concurrency / workers);
          const order: ClientsOrder = {
            round,
            seed,
            choice,
            port,
            adminPort,
            forbidden,
            concurrency: share,
            patient: !quick,
          };
          worker.send(order);
        }),
    );
    let going = true;
    const all = Promise.all(finished).finally(() => {
      going = false;
    });
    const watch = async () => {
      for (let nextProgress = Date.now() + PROGRESS_MS; going; ) {
        await this.#probe();
        this.#takeRecords();
        if (!this.#alive()) this.#stopClients();
        else this.#maxRss = Math.max(this.#maxRss, this.#proxy.rss());
        if (Date.now() > this.#deadline) this.#stopClients();
        if (Date.now() > nextProgress) {
          nextProgress += PROGRESS_MS;
          console.log(this.#progress());
        }
        await Promise.race([sleep(PROBE_EVERY_MS), all]);
      }
    };
    await Promise.all([all, watch()]);
  }

  /** Checks every invariant while no client is connected. */
  async #check(baseline: Baseline): Promise<void> {
    const proxy = this.#proxy;
    for (const line of faultsOfLog(proxy.stderr())) this.#violations.add("log", line.slice(0, 500));
    if (!this.#alive()) {
      this.#violations.add("exit", "the proxy has ended by itself");
      return;
    }
    for (let i = 0; i < 3; i++) await this.#probe();
    await baseline.restored(undefined, SETTLE_MS).catch((error: Error) => {
      const [message] = error.message.split("; stderr");
      this.#violations.add("base line", message!.replace(/\s+/g, " "));
    });
    const counted = await requestsOf(proxy);
    for (const began = Date.now(); Date.now() - began < RECORDS_MS; await sleep(50)) {
      this.#takeRecords();
      if (this.#ledger.missing === 0 && this.#records >= counted) break;
    }
    if (counted !== this.#records) {
      this.#violations.add("lost records", `the proxy counted ${counted} requests and wrote ${this.#records} records`);
    }
    const { records, requests, anonymous } = this.#ledger;
    this.#ledger.settle((category, source, numbers, what) => {
      if (numbers.length === 0) this.#violations.add(category, `client ${source}: ${what}`);
      for (const number of numbers.slice(0, 3)) this.#blame(category, number, `${what} [${source}]`);
    });
    console.log(`${this.#progress()}; ${records} access records, for ${requests} requests at least`);
    if (anonymous > 0) this.#violations.add("anonymous records", `${anonymous} records have no client address`);
    if (this.#maxRss > MAX_RSS_MIB) {
      this.#violations.add("memory", `the proxy took ${this.#maxRss.toFixed(0)} MiB, more than ${MAX_RSS_MIB}`);
    }
    if (this.#inside && unroutable() > 0) {
      this.#violations.add("dialled", `${unroutable()} connections or packets to addresses without a route`);
    }
  }

  async #stopProxy(): Promise<void> {
    if (!this.#alive()) return;
    const status = await Promise.race([this.#proxy.stop(), sleep(EXIT_MS, "late" as const)]);
    if (status === "late") {
      this.#violations.add("exit", `the proxy still runs ${EXIT_MS / 1000} s after SIGTERM`);
      await this.#proxy.stop("SIGKILL");
    } else if (status !== 0) this.#violations.add("exit", `the proxy ended with ${status}`);
  }

  /** Exit status. */
  async go(): Promise<number> {
    const { connections, checkEvery, restart } = this.#options;
    await this.start();
    let baseline = await this.#startProxy();
    for (let first = 0; first < connections; first += checkEvery) {
      await this.#load(first, Math.min(connections, first + checkEvery));
      await this.#check(baseline);
      if (this.#violations.count > 0 || Date.now() > this.#deadline) break;
      if (restart && first + checkEvery < connections) {
        await this.#stopProxy();
        baseline = await this.#startProxy();
      }
    }
    await this.#stopProxy();
    this.#python?.stdin?.end();
    if (this.#violations.count === 0) {
      console.log(`no violation in ${this.#done} connections; peak memory ${this.#maxRss.toFixed(0)} MiB`);
      return 0;
    }
    console.log(`\nFAILED after ${this.#done} connections, first after about ${this.#firstAt ?? this.#done}:`);
    for (const line of this.#violations.lines()) console.log(line);
    return 1;
  }
}
