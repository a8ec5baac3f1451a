import { coreBusyMs, cpuMs } from "./cpu.ts";
import { type Crew, needing, PeerError } from "./crew.ts";
import type { Running } from "./peers.ts";
import { rotated } from "./ratios.ts";
import type { Outcome } from "./wire.ts";
import type { Workload } from "./workloads.ts";

/** Measures a workload in short slices, proxy after proxy, round after round. */

/** Figures of one slice of one proxy. */
export interface Slice extends Outcome {
  /** CPU time of all processes of the proxy for one unit, microseconds. */
  cpuUs: number;
  unitsPerSecond: number;
  /** Share of the slice for which other programs used the proxy's core. */
  foreign: number;
  queries: number;
  /** Connections that the origin got. */
  connections: number;
}

export interface Series {
  workload: Workload;
  proxy: string;
  slices: Slice[];
  /** Why its figures are not those of the workload; absent: they are. */
  broken?: string;
}

/** Share of failed operations from which a proxy counts as broken. */
const BROKEN_SHARE = 0.01;

/** Limit of repetitions of a slice in which other programs used more of the core. */
const FOREIGN_SHARE = 0.15;
const AGAIN = 2;
const WARM_SECONDS = 0.4;
/** Connections are still being closed after the last operation; this belongs to the slice. */
const SETTLE_MS = 40;

const settle = () => new Promise((resolve) => setTimeout(resolve, SETTLE_MS));

async function oneSlice(crew: Crew, key: string, workload: Workload, pids: number[], core: number, seconds: number) {
  const before = await crew.counts();
  const began = performance.now();
  const cpu = cpuMs(pids);
  const busy = coreBusyMs(core);
  const outcome = await crew.run(key, seconds);
  await settle();
  const used = cpuMs(pids) - cpu;
  const elapsed = performance.now() - began;
  const after = await crew.counts();
  const units = outcome.ops * workload.units;
  const slice: Slice = {
    ...outcome,
    cpuUs: (used * 1000) / units,
    unitsPerSecond: units / outcome.seconds,
    foreign: Math.max(0, (coreBusyMs(core) - busy - used) / elapsed),
    queries: after.queries - before.queries,
    connections: after.connections - before.connections,
  };
  return slice;
}

async function calmSlice(...args: Parameters<typeof oneSlice>): Promise<Slice> {
  let best = await oneSlice(...args);
  for (let i = 0; i < AGAIN && best.foreign > FOREIGN_SHARE; i++) {
    const next = await oneSlice(...args);
    if (next.foreign < best.foreign) best = next;
  }
  return best;
}

/** Why a proxy that failed operations is broken; null: it is not. */
function brokenBy({ ops, errors, error }: Outcome): string | null {
  const share = errors / (ops + errors);
  if (!(share > BROKEN_SHARE)) return ops > 0 ? null : "no operation";
  return `${Math.round(share * 100)} % of the operations fail: ${error}`;
}

/**
 * Measures every proxy that supports the workload, warmed up, in slices of rotated order. A proxy whose operations fail
 * is marked as broken, and the others are measured.
 */
export async function measureSlices(
  crew: Crew,
  workload: Workload,
  proxies: readonly Running[],
  options: { rounds: number; seconds: number; core: number; onProgress?: (share: number) => void },
): Promise<Series[]> {
  const fit = proxies.filter((proxy) => proxy.route(workload.what) !== null);
  const series = fit.map((proxy): Series => ({ workload, proxy: proxy.name, slices: [] }));
  const judge = (at: number, outcome: Outcome) => {
    const broken = brokenBy(outcome);
    if (broken !== null) series[at]!.broken ??= broken;
  };
  const prepared: string[] = [];
  for (const [at, proxy] of fit.entries()) {
    try {
      await needing(proxy.name, crew.prepare(proxy.name, workload.job, proxy.route(workload.what)!));
      prepared.push(proxy.name);
    } catch (error) {
      if (!(error instanceof PeerError)) throw error;
      series[at]!.broken = error.message;
      continue;
    }
    judge(at, await crew.run(proxy.name, WARM_SECONDS, proxy.warms ? workload.warmOps : 0));
  }
  for (let round = 0; round < options.rounds; round++) {
    options.onProgress?.(round / options.rounds);
    for (const at of rotated([...fit.keys()], round)) {
      if (series[at]!.broken !== undefined) continue;
      const proxy = fit[at]!;
      const slice = await calmSlice(crew, proxy.name, workload, proxy.pids(), options.core, options.seconds);
      series[at]!.slices.push(slice);
      judge(at, slice);
    }
  }
  for (const name of prepared) await crew.finish(name);
  return series;
}
