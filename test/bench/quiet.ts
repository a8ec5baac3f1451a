import { threadCpuMs } from "./cpu.ts";
import { type Crew, needing, PeerError } from "./crew.ts";
import { type Peer, type Running, startPeer } from "./peers.ts";
import { pairedRatio, rotated, spread } from "./ratios.ts";
import { judged, missedAim, missedAims, type Single, short, shortSpread, table } from "./report.ts";
import type { Job } from "./wire.ts";

/** The CPU time of proxies that have little or nothing to do, in fresh processes. */

const IDLE_TUNNELS = 5000;
/** Proxies set up their tunnels for a long idle time in the first seconds: outrider sets TCP keep-alive after 15 s. */
const IDLE_SETTLE_MS = 18_000;
const IDLE_SECONDS = 10;
/** Highest share of a core, in percent. */
const IDLE_PERCENT = 0.3;

const FRAME = { up: 1500, down: 200 };
const LOW_RATE = { kind: "open", clients: 50, frame: FRAME, rate: 160 } as const;
const LOW_RATE_SECONDS = 10;
/** Highest CPU time of a message, divided by that of Smokescreen. */
const LOW_RATE_RATIO = 1.0;
const SETTLE_MS = 1000;

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** Starts a proxy with a prepared job and measures it; returns the reason if the proxy fails. */
async function withJob(
  crew: Crew,
  { peer, core, job }: { peer: Peer; core: string; job: Job },
  measure: (proxy: Running) => Promise<void>,
): Promise<string | null> {
  const proxy = await startPeer(peer, core);
  try {
    await needing(peer.name, crew.prepare("quiet", job, proxy.route("tunnel")!));
    await measure(proxy);
    await crew.finish("quiet");
    return null;
  } catch (error) {
    if (!(error instanceof PeerError)) throw error;
    return error.message;
  } finally {
    await proxy.stop();
  }
}

/** CPU time with many idle tunnels and no traffic. */
export async function idleCpu(crew: Crew, peers: readonly Peer[], core: string): Promise<Single> {
  const rows: string[][] = [];
  const figures: object[] = [];
  const failures: string[] = [];
  for (const peer of peers) {
    const job = { kind: "open", clients: IDLE_TUNNELS, frame: FRAME } as const;
    const failure = await withJob(crew, { peer, core, job }, async (proxy) => {
      await sleep(IDLE_SETTLE_MS);
      const began = performance.now();
      const before = threadCpuMs(proxy.pids());
      await sleep(IDLE_SECONDS * 1000);
      const percent = (100 * (threadCpuMs(proxy.pids()) - before)) / (performance.now() - began);
      rows.push([peer.name, percent.toFixed(3), peer.name === "outrider" ? judged(percent, IDLE_PERCENT) : ""]);
      const missed = peer.name === "outrider" ? missedAim("% of a core:", percent, IDLE_PERCENT) : [];
      figures.push({ workload: "idle-cpu", proxy: peer.name, tunnels: IDLE_TUNNELS, percent, missed });
    });
    if (failure !== null) failures.push(failure);
  }
  return {
    text: `idle-cpu: ${IDLE_TUNNELS} idle tunnels, no traffic\n${table(["proxy", "% of a core", "target"], rows)}`,
    figures,
    failures,
  };
}

/** CPU time of each message on kept tunnels at a low rate. */
export async function lowRate(crew: Crew, peers: readonly Peer[], core: string, rounds: number): Promise<Single> {
  const found = new Map<string, { cpuUs: number[]; p99Ms: number[]; errors: number }>();
  const failures = new Map<string, string>();
  for (let round = 0; round < rounds; round++) {
    for (const peer of rotated(peers, round)) {
      if (failures.has(peer.name)) continue;
      const entry = found.get(peer.name) ?? { cpuUs: [], p99Ms: [], errors: 0 };
      const failure = await withJob(crew, { peer, core, job: LOW_RATE }, async (proxy) => {
        await sleep(SETTLE_MS);
        const before = threadCpuMs(proxy.pids());
        const outcome = await crew.run("quiet", LOW_RATE_SECONDS);
        entry.cpuUs.push((1000 * (threadCpuMs(proxy.pids()) - before)) / outcome.ops);
        entry.p99Ms.push(outcome.p99Ms);
        entry.errors += outcome.errors;
        found.set(peer.name, entry);
      });
      if (failure !== null) failures.set(peer.name, failure);
    }
  }
  const ours = found.get("outrider")?.cpuUs ?? [];
  const shown = [...found].map(([proxy, { cpuUs, p99Ms, errors }]) => {
    const ratio = proxy === "outrider" ? null : pairedRatio(ours, cpuUs);
    const target = proxy === "smokescreen" ? LOW_RATE_RATIO : null;
    const times = { cpuUs: spread(cpuUs), p99Ms: spread(p99Ms), latencyMs: [] };
    const missed = missedAims({ proxy, ratio, target });
    return { workload: "low-rate", proxy, unit: "message", ...times, ratio, target, errors, missed };
  });
  const rows = shown.map(({ proxy, cpuUs, p99Ms, ratio, target, errors }) => [
    ...[proxy, shortSpread(cpuUs), short(p99Ms.median), `${errors}`],
    ...[ratio === null ? "" : shortSpread(ratio), judged(ratio?.median, target ?? undefined)],
  ]);
  const { clients, rate } = LOW_RATE;
  const title = `low-rate: ${rate} messages of 1,500 B a second on ${clients} kept tunnels, fresh processes`;
  const head = ["proxy", "CPU us/message", "p99 ms", "errors", "outrider / it", "target"];
  return { text: `${title}\n${table(head, rows)}`, figures: shown, failures: [...failures.values()] };
}
