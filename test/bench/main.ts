import { writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { resolve } from "node:path";
import { parseArgs } from "node:util";
import { startProgress } from "../../proxy/cli/progress.ts";
import { install } from "../senders/install.ts";
import { loadAverage } from "./cpu.ts";
import { PeerError, startCrew } from "./crew.ts";
import { isIsolated, isolate, OTHER_CORE, PROXY_CORE } from "./isolate.ts";
import { bundle, isInstalled, otherCheckout, PEERS, type Running, startPeer } from "./peers.ts";
import { missedOf } from "./publish.ts";
import { seriesFigures, seriesTable } from "./report.ts";
import { expectedSeconds, measureSingle, SINGLES } from "./singles.ts";
import { measureSlices } from "./slices.ts";
import { WORKLOADS } from "./workloads.ts";

/** Measures the costs of outrider side by side with other proxies: options, plan, output. */

/** Seconds of one proxy and workload besides its slices: warm-up, and for each slice waiting. */
const WARM_UP_SECONDS = 1;
const SLICE_EXTRA_SECONDS = 0.1;

const WORKLOAD_NAMES: readonly string[] = [...WORKLOADS.map((workload) => workload.name), ...SINGLES];
const PEER_NAMES: readonly string[] = PEERS.slice(1).map((peer) => peer.name);

const HELP = `Usage: node test/bench/main.ts [--rounds N] [--slice-seconds S] [--only WORKLOAD,...] [--peers NAME,...] [--against DIR] [--json FILE]

--against DIR: another checkout of this project, with its packages installed, as one more peer
Workloads: ${WORKLOAD_NAMES.join(" ")}
Peers: ${PEER_NAMES.join(" ")}`;

const { values } = parseArgs({
  options: {
    rounds: { type: "string", default: "7" },
    "slice-seconds": { type: "string", default: "0.8" },
    only: { type: "string" },
    peers: { type: "string" },
    against: { type: "string" },
    json: { type: "string" },
    help: { type: "boolean" },
  },
});
if (values.help) {
  console.log(HELP);
  process.exit(0);
}
const only = values.only?.split(",");
const peerNames = values.peers?.split(",");
for (const [names, known] of [
  [only, WORKLOAD_NAMES],
  [peerNames, PEER_NAMES],
] as const) {
  const unknown = names?.find((name) => !known.includes(name));
  if (unknown === undefined) continue;
  console.error(`unknown name "${unknown}"; known names: ${known.join(" ")}`);
  process.exit(2);
}
const wanted = PEERS.filter((peer, i) => i === 0 || peerNames === undefined || peerNames.includes(peer.name));
if (!isIsolated()) {
  for (const packages of new Set(wanted.flatMap((peer) => peer.packages ?? []))) {
    const { missing } = install(packages, console.log);
    if (missing !== undefined) console.log(`${packages.name}: ${missing}`);
  }
}
await isolate(OTHER_CORE);
await bundle();
const rounds = Number(values.rounds);
const seconds = Number(values["slice-seconds"]);

const lines: string[] = [];
if (values.against !== undefined) {
  const root = resolve(values.against);
  await bundle(root);
  wanted.push(otherCheckout(root));
}
const present = wanted.filter(isInstalled);
for (const peer of wanted) if (!present.includes(peer)) console.log(`skipped: ${peer.name} (${peer.needs})`);
console.log(`${cpus()[0]!.model}, ${cpus().length} cores, load ${loadAverage()}`);
for (const peer of present) console.log(`${peer.name}: ${peer.version()}`);

const about = {
  machine: cpus()[0]!.model,
  cores: cpus().length,
  date: new Date().toISOString().slice(0, 10),
  load: loadAverage(),
  rounds,
  versions: Object.fromEntries(present.map((peer) => [peer.name, peer.version()])),
};
lines.push(JSON.stringify({ about }));

const crew = await startCrew();
const isWanted = ({ name }: { name: string }) => only === undefined || only.includes(name);
const progress = startProgress(
  [
    ...WORKLOADS.map(({ name }) => {
      return { name, seconds: present.length * (WARM_UP_SECONDS + rounds * (seconds + SLICE_EXTRA_SECONDS)) };
    }),
    ...SINGLES.map((name) => ({ name, seconds: expectedSeconds(name, present.length, rounds) })),
  ].filter(isWanted),
);

/** Prints why a proxy could not be measured. The exit status is 1 at the end. */
function fail(workload: string, message: string): void {
  progress.clear();
  console.error(`${workload}: ${message}`);
  process.exitCode = 1;
}

/** Measures one workload; a proxy that fails ends only this workload. */
async function attempt(workload: string, measure: () => Promise<void>): Promise<void> {
  // Most report shares. The time of a single measurement decides.
  progress.show(workload);
  try {
    await measure();
    if (values.json !== undefined) writeFileSync(values.json, `${lines.join("\n")}\n`);
  } catch (error) {
    if (!(error instanceof PeerError)) throw error;
    fail(workload, error.message);
  }
}

const running: Running[] = [];
for (const peer of present) running.push(await startPeer(peer, `${PROXY_CORE}`));
for (const workload of WORKLOADS.filter(isWanted)) {
  await attempt(workload.name, async () => {
    const onProgress = (share: number) => progress.show(workload.name, share);
    const series = await measureSlices(crew, workload, running, { rounds, seconds, core: PROXY_CORE, onProgress });
    progress.clear();
    console.log(`\n${seriesTable(series)}`);
    for (const { proxy, broken } of series) if (broken !== undefined) fail(workload.name, `${proxy}: ${broken}`);
    for (const figure of seriesFigures(series)) lines.push(JSON.stringify(figure));
  });
}
for (const name of SINGLES) {
  if (!isWanted({ name })) continue;
  await attempt(name, async () => {
    const options = { peers: present, running, core: `${PROXY_CORE}`, rounds };
    const { text, figures, failures = [] } = await measureSingle(name, crew, options);
    progress.clear();
    console.log(`\n${text}`);
    for (const failure of failures) fail(name, failure);
    for (const figure of figures) lines.push(JSON.stringify(figure));
  });
}
progress.end();
for (const proxy of running) await proxy.stop();
crew.close();
if (values.json === undefined) console.log(`\n${lines.join("\n")}`);
const missed = missedOf(lines.map((line) => JSON.parse(line)));
console.log(missed.length === 0 ? "\nEvery aim is met." : `\nMissed aims:\n${missed.join("\n")}`);
process.exit();
