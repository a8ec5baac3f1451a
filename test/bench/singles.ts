import { cpuMs, residentKiB } from "./cpu.ts";
import { type Crew, needing, PeerError } from "./crew.ts";
import { nextPorts, outriderKnows, PEERS, type Peer, type Running, startPeer } from "./peers.ts";
import { measureClients, measurePolicy } from "./policy.ts";
import { idleCpu, lowRate } from "./quiet.ts";
import { rotated, spread } from "./ratios.ts";
import { judged, missedAim, type Single, short, table } from "./report.ts";
import { starts } from "./starts.ts";

/**
 * Figures that are measured once or a few times, not in slices: memory, latency with idle tunnels, a large policy, two
 * processes.
 */

const IDLE_TUNNELS = 5000;
/** Highest resident memory of an idle tunnel. */
const KIB_PER_TUNNEL = 9;
const RATES = [500, 2000];
/** Highest p99 of outrider divided by that of squid. */
const RATE_TAIL = 1.2;
/** Limit of the rounds of latency and low rate. */
const LATENCY_ROUNDS = 3;
const LATENCY_SECONDS = 4;
const WARM_SECONDS = 1.5;
const FRAME = { up: 1500, down: 200 };
const SETTLE_MS = 1000;
const settle = () => new Promise((resolve) => setTimeout(resolve, SETTLE_MS));

/** Resident memory of fresh processes before and with idle tunnels, each of which has had one exchange. */
async function idle(crew: Crew, peers: readonly Peer[], core: string): Promise<Single> {
  const rows: string[][] = [];
  const figures: object[] = [];
  const failures: string[] = [];
  for (const peer of peers) {
    const proxy = await startPeer(peer, core);
    await settle();
    const empty = residentKiB(proxy.pids());
    const job = { kind: "open", clients: IDLE_TUNNELS, frame: FRAME } as const;
    try {
      await needing(peer.name, crew.prepare("idle", job, proxy.route("tunnel")!));
    } catch (error) {
      if (!(error instanceof PeerError)) throw error;
      failures.push(error.message);
      rows.push([peer.name, "failed", short(empty / 1024), "", ""]);
      await proxy.stop();
      continue;
    }
    await settle();
    const full = residentKiB(proxy.pids());
    await crew.finish("idle");
    await proxy.stop();
    const each = (full - empty) / IDLE_TUNNELS;
    const verdict = peer.name === "outrider" ? judged(each, KIB_PER_TUNNEL) : "";
    rows.push([peer.name, short(each), short(empty / 1024), short(full / 1024), verdict]);
    figures.push({
      workload: "idle",
      proxy: peer.name,
      tunnels: IDLE_TUNNELS,
      kibPerTunnel: each,
      emptyKiB: empty,
      fullKiB: full,
      missed: peer.name === "outrider" ? missedAim("KiB for each tunnel:", each, KIB_PER_TUNNEL) : [],
    });
  }
  const head = ["proxy", "KiB/tunnel", "empty MiB", "full MiB", "target"];
  return {
    text: `idle: resident memory with ${IDLE_TUNNELS} idle tunnels, fresh processes\n${table(head, rows)}`,
    figures,
    failures,
  };
}

/** Latency at each rate. */
async function latencies(crew: Crew, running: readonly Running[], rounds: number): Promise<Single> {
  const all: Single[] = [];
  for (const rate of RATES) all.push(await latency(crew, running, rounds, rate));
  return {
    text: all.map((single) => single.text).join("\n\n"),
    figures: all.flatMap((single) => single.figures),
    failures: all.flatMap((single) => single.failures ?? []),
  };
}

/** Latency from the intended start at a fixed rate a second, with many idle tunnels. */
async function latency(crew: Crew, running: readonly Running[], rounds: number, each: number): Promise<Single> {
  const found = new Map<string, { p50: number[]; p99: number[]; errors: number }>();
  const failures = new Map<string, string>();
  const rate = { kind: "tunnel", clients: 32, frames: [FRAME], rate: each } as const;
  for (let round = 0; round < rounds; round++) {
    for (const proxy of rotated(running, round)) {
      if (failures.has(proxy.name)) continue;
      const route = proxy.route("tunnel")!;
      try {
        await needing(proxy.name, crew.prepare("idle", { kind: "open", clients: IDLE_TUNNELS, frame: FRAME }, route));
      } catch (error) {
        if (!(error instanceof PeerError)) throw error;
        failures.set(proxy.name, error.message);
        continue;
      }
      await crew.prepare("rate", rate, route);
      await crew.run("rate", WARM_SECONDS);
      const outcome = await crew.run("rate", LATENCY_SECONDS);
      await crew.finish("rate");
      await crew.finish("idle");
      await settle();
      const entry = found.get(proxy.name) ?? { p50: [], p99: [], errors: 0 };
      entry.p50.push(outcome.p50Ms);
      entry.p99.push(outcome.p99Ms);
      entry.errors += outcome.errors;
      found.set(proxy.name, entry);
    }
  }
  const squid = found.get("squid");
  const bound = squid === undefined ? undefined : RATE_TAIL * spread(squid.p99).median;
  const rows = [...found].map(([name, { p50, p99, errors }]) => [
    name,
    short(spread(p50).median),
    short(spread(p99).median),
    `${short(spread(p99).q1)}-${short(spread(p99).q3)}`,
    `${errors}`,
    name === "outrider" && bound !== undefined ? judged(spread(p99).median, bound) : "",
  ]);
  const figures = [...found].map(([proxy, { p50, p99, errors }]) => {
    return {
      workload: "latency",
      proxy,
      rate: each,
      idle: IDLE_TUNNELS,
      p50Ms: spread(p50),
      p99Ms: spread(p99),
      errors,
      missed: proxy === "outrider" ? missedAim(`p99 ms at ${each}/s:`, spread(p99).median, bound) : [],
    };
  });
  const title = `latency: ${each} short tunnels/s, from the intended start, with ${IDLE_TUNNELS} idle tunnels open`;
  return {
    text: `${title}\n${table(["proxy", "p50 ms", "p99 ms", "quartiles", "errors", `${RATE_TAIL} x p99 of squid`], rows)}`,
    figures,
    failures: [...failures.values()],
  };
}

/** A table of figures with their bounds, and the missed ones. */
function aims(list: readonly (readonly [what: string, value: number, bound: number])[]) {
  const rows = list.map(([what, value, bound]) => [what, short(value), judged(value, bound)]);
  return {
    text: table(["figure", "median", "target"], rows),
    missed: list.flatMap(([what, value, bound]) => missedAim(`${what}:`, value, bound)),
  };
}

/** Compiling and deciding with 100,000 hosts and 10,000 CIDRs, in this process. */
function policy(): Single {
  const m = measurePolicy();
  const { text, missed } = aims([
    ["load ms", m.loadMs, 500],
    ["memory MB", m.megabytes, 40],
    ["decision by name, us", m.nameUs, 1.5],
    ["decision with address, us", m.addressUs, 1.5],
  ]);
  return {
    text: `policy: ${m.hosts} hosts and ${m.cidrs} CIDRs\n${text}`,
    figures: [{ workload: "policy", ...m, missed }],
  };
}

/** Compiling and deciding with 200 clients that share a set of 10,000 hosts, and the slowest decision, in this process. */
function clients(): Single {
  const m = measureClients();
  const { text, missed } = aims([
    ["document KiB", m.bytes / 1024, 1024],
    ["load ms", m.loadMs, 500],
    ["decision with address, us", m.decisionUs, 1.5],
    ["slowest decision by name, us", m.worstUs, 200],
  ]);
  return {
    text: `clients: ${m.clients} with a shared set of hosts\n${text}`,
    figures: [{ workload: "clients", ...m, missed }],
  };
}

/** Two processes on one port compared with one process: distribution of connections, and cost of a tunnel. */
async function twoProcesses(crew: Crew, core: string): Promise<Single> {
  if (!outriderKnows("reuse-port")) return { text: "two: skipped, this outrider has no --reuse-port", figures: [] };
  const outrider = PEERS[0]!;
  const ports = nextPorts();
  const start = (admin: number) => startPeer(outrider, core, { ports: { ...ports, admin }, args: ["--reuse-port"] });
  const first = await start(ports.admin);
  const second = await start(ports.admin + 1);
  const job = { kind: "tunnel", clients: 32, frames: [FRAME] } as const;
  await crew.prepare("two", job, first.route("tunnel")!);
  await crew.run("two", 1, 24_000);
  const before = [first, second].map((proxy) => cpuMs(proxy.pids()));
  const outcome = await crew.run("two", 3);
  await settle();
  const used = [first, second].map((proxy, i) => cpuMs(proxy.pids()) - before[i]!);
  await crew.finish("two");
  for (const proxy of [first, second]) await proxy.stop();
  const sum = used[0]! + used[1]!;
  const shares = used.map((ms) => Math.round((100 * ms) / sum));
  const cpuUs = (sum * 1000) / outcome.ops;
  const fair = shares.every((share) => share >= 40 && share <= 60) ? "met (40-60 %)" : "MISSED (40-60 %)";
  const missed = fair.startsWith("met")
    ? []
    : [`share of each process: ${shares.join(" and ")} %. The aim is 40 to 60 %.`];
  const rows = [[short(cpuUs), `${shares[0]} % and ${shares[1]} %`, `${outcome.errors}`, fair]];
  return {
    text: `two: short tunnels through two processes with --reuse-port\n${table(["CPU us/tunnel", "share of the CPU time", "errors", "target"], rows)}`,
    figures: [{ workload: "two", cpuUs, shares, ops: outcome.ops, errors: outcome.errors, missed }],
  };
}

/** Names of these figures for `--only`. */
export const SINGLES = ["idle", "idle-cpu", "low-rate", "latency", "policy", "clients", "two", "start"] as const;

/** Expected seconds of one of them. Only the proportions matter. */
export function expectedSeconds(name: (typeof SINGLES)[number], proxies: number, rounds: number): number {
  if (name === "idle") return proxies * 5;
  if (name === "idle-cpu") return proxies * 32;
  if (name === "low-rate") return proxies * Math.min(rounds, LATENCY_ROUNDS) * 13;
  if (name === "start") return (proxies + 1) * rounds * 0.5;
  if (name === "latency") return proxies * RATES.length * Math.min(rounds, LATENCY_ROUNDS) * 9;
  return 10;
}

/** Measures one of them. */
export function measureSingle(
  name: (typeof SINGLES)[number],
  crew: Crew,
  options: { peers: readonly Peer[]; running: readonly Running[]; core: string; rounds: number },
): Promise<Single> {
  switch (name) {
    case "idle":
      return idle(crew, options.peers, options.core);
    case "idle-cpu":
      return idleCpu(crew, options.peers, options.core);
    case "low-rate":
      return lowRate(crew, options.peers, options.core, Math.min(options.rounds, LATENCY_ROUNDS));
    case "latency":
      return latencies(crew, options.running, Math.min(options.rounds, LATENCY_ROUNDS));
    case "policy":
      return Promise.resolve(policy());
    case "clients":
      return Promise.resolve(clients());
    case "two":
      return twoProcesses(crew, options.core);
    case "start":
      return starts(options.peers, options.core, options.rounds);
  }
}
