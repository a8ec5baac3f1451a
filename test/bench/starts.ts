import { spawnSync } from "node:child_process";
import { copyFileSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { bundleCode } from "../../bin/image/bundle.ts";
import { threadCpuMs } from "./cpu.ts";
import { PeerError } from "./crew.ts";
import { type Peer, startPeer } from "./peers.ts";
import { rotated, spread } from "./ratios.ts";
import { judged, missedAim, type Single, shortSpread, table } from "./report.ts";

/** The time of a start: until a new process accepts connections, and of a command that ends. */

/** Longest time until the proxy of the bundle accepts connections, and of `explain`, in milliseconds. */
const AIMS: Readonly<Record<string, number>> = { "outrider, bundle": 250, "outrider explain, bundle": 150 };

const POLICY = new URL("peers/outrider.yaml", import.meta.url).pathname;
/** Explains a refusal, which is exit status 1. */
const EXPLAIN = ["explain", "--policy", POLICY, "http://127.0.0.1:8080/"];

/** The proxy of the bundle, as in the image: without a cache of compiled code. */
function bundled(outrider: Peer, dist: string): Peer {
  return {
    ...outrider,
    name: "outrider, bundle",
    command: (configs, ports) => [
      ...[process.execPath, "--max-semi-space-size=8", join(dist, "outrider.js")],
      ...outrider.command(configs, ports)!.slice(1),
    ],
  };
}

/** Times and CPU times of starts in rotated order, medians and quartiles. */
export async function starts(peers: readonly Peer[], core: string, rounds: number): Promise<Single> {
  const folder = mkdtempSync(join(tmpdir(), "outrider-bench-"));
  const dist = join(folder, "dist");
  await bundleCode(dist);
  copyFileSync(new URL("../../package.json", import.meta.url), join(folder, "package.json"));
  // From its sources outrider needs the cache of compiled code, which a process writes when it ends.
  const all = [...peers.filter((peer) => !peer.warms), bundled(peers[0]!, dist)];
  const found = new Map<string, { ms: number[]; cpuMs: number[] }>();
  const failures = new Map<string, string>();
  const entryOf = (name: string) => {
    const entry = found.get(name) ?? { ms: [], cpuMs: [] };
    found.set(name, entry);
    return entry;
  };
  for (let round = 0; round < rounds; round++) {
    for (const peer of rotated(all, round)) {
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
    const { status, stderr } = spawnSync("taskset", [
      "-c",
      core,
      process.execPath,
      join(dist, "outrider.js"),
      ...EXPLAIN,
    ]);
    if (status === 1) entryOf("outrider explain, bundle").ms.push(performance.now() - began);
    else failures.set("explain", `outrider explain: exit status ${status}: ${stderr}`);
  }
  rmSync(folder, { recursive: true });
  const shown = [...found].map(([proxy, { ms, cpuMs }]) => {
    const times = { ms: spread(ms), ...(cpuMs.length > 0 && { cpuMs: spread(cpuMs) }) };
    return { workload: "start", proxy, ...times, missed: missedAim("ms:", times.ms.median, AIMS[proxy]) };
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
