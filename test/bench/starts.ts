import { spawnSync } from "node:child_process";
import { threadCpuMs } from "./cpu.ts";
import { PeerError } from "./crew.ts";
import { bundled, type Peer, startPeer } from "./peers.ts";
import { rotated, spread } from "./ratios.ts";
import { judged, missedAim, type Single, shortSpread, table } from "./report.ts";

/** The time of a start: until a new process accepts connections, and of a command that ends. */

/** Longest time until the proxy accepts connections, and of `explain`, in milliseconds. */
const AIMS: Readonly<Record<string, number>> = { outrider: 250, "outrider explain": 150 };

const POLICY = new URL("peers/outrider.yaml", import.meta.url).pathname;
/** Explains a refusal, which is exit status 1. */
const EXPLAIN = ["explain", "--policy", POLICY, "http://127.0.0.1:8080/"];

/** Times and CPU times of starts in rotated order, medians and quartiles. */
export async function starts(peers: readonly Peer[], core: string, rounds: number): Promise<Single> {
  const found = new Map<string, { ms: number[]; cpuMs: number[] }>();
  const failures = new Map<string, string>();
  const entryOf = (name: string) => {
    const entry = found.get(name) ?? { ms: [], cpuMs: [] };
    found.set(name, entry);
    return entry;
  };
  for (let round = 0; round < rounds; round++) {
    for (const peer of rotated(peers, round)) {
      if (failures.has(peer.name)) continue;
      try {
        const began = performance.now();
        const proxy = await startPeer(peer, core);
        const ms = performance.now() - began;
        const cpuMs = threadCpuMs(proxy.pids());
        await proxy.stop();
        entryOf(peer.name).ms.push(ms);
        entryOf(peer.name).cpuMs.push(cpuMs);
      } catch (error) {
        if (!(error instanceof PeerError)) throw error;
        failures.set(peer.name, error.message);
      }
    }
    const began = performance.now();
    const { status, stderr } = spawnSync("taskset", ["-c", core, ...bundled(EXPLAIN)], { encoding: "utf8" });
    if (status === 1) entryOf("outrider explain").ms.push(performance.now() - began);
    else failures.set("explain", `outrider explain: exit status ${status}: ${stderr}`);
  }
  const shown = [...found].map(([proxy, { ms, cpuMs }]) => {
    const times = { ms: spread(ms), ...(cpuMs.length > 0 && { cpuMs: spread(cpuMs) }) };
    return { workload: "start", proxy, ...times, missed: missedAim(`${proxy}, ms:`, times.ms.median, AIMS[proxy]) };
  });
  const rows = shown.map(({ proxy, ms, cpuMs }) => [
    ...[proxy, shortSpread(ms), cpuMs === undefined ? "" : shortSpread(cpuMs), judged(ms.median, AIMS[proxy])],
  ]);
  const title = "start: until a new process accepts connections, or a command ends";
  return {
    text: `${title}\n${table(["proxy", "ms", "CPU ms until then", "target"], rows)}`,
    figures: shown,
    failures: [...failures.values()],
  };
}
