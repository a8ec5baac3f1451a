import { readFileSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { parseArgs } from "node:util";
import { startProgress } from "../../proxy/cli/progress.ts";
import { install, PROXIES } from "../senders/install.ts";
import { loadAverage } from "./cpu.ts";
import { type Crew, PeerError, startCrew } from "./crew.ts";
import { isIsolated, isolate, OTHER_CORE, PROXY_CORE } from "./isolate.ts";
import { bundle, isInstalled, PEERS, startPeer } from "./peers.ts";
import { pairedRatio, rotated } from "./ratios.ts";
import { parseReference, type Reference, referenceText, verdictLine } from "./reference.ts";
import { measureSlices } from "./slices.ts";
import { interval, judge, MARGIN, MIN_ROUNDS, REFERENCE_WIDTH, widthOf } from "./verdict.ts";
import { WORKLOADS, type Workload } from "./workloads.ts";

/** `make bench-guard`: compares outrider with nginx CONNECT, and the ratios with the committed reference. */

const REFERENCE = new URL("reference.json", import.meta.url).pathname;
const DEFAULT_WORKLOADS = ["tunnel", "tls", "pingpong-32", "refused", "http-keepalive", "http-new"];
const MAX_ROUNDS = 25;
/** Slices of each proxy in a round, which is the time of its start and warm-up anyway. */
const SLICES = 3;
/** Start and warm-up of both proxies in a round, and the time between slices. */
const ROUND_EXTRA_SECONDS = 3;
const OUTRIDER = PEERS[0]!;
const YARDSTICK = PEERS.find((peer) => peer.name === "nginx-connect")!;
/** Measured on the yardstick for workloads that it does not support. */
const SHORT_TUNNEL = WORKLOADS[0]!;
const STATUS = { ok: 0, worse: 1, wrongInput: 2, notDecided: 3 } as const;

const HELP = `Usage: node test/bench/guard.ts [--only WORKLOAD,...] [--rounds N] [--max-rounds N] [--slice-seconds S]
                                [--warm-up OPERATIONS] [--reference FILE] [--update REASON]

Measures the CPU time of outrider divided by that of nginx CONNECT, with new processes in each round, and compares the
ratios with the reference. A ratio may be ${MARGIN * 100} % worse than its reference. A workload that is not decided after
--rounds (default ${MIN_ROUNDS}) gets more rounds, up to --max-rounds (default ${MAX_ROUNDS}).
Plain http, which nginx CONNECT does not support, is compared with its short tunnel.

--warm-up OPERATIONS: of outrider before its slices (default: as in make bench)
--update REASON: write the measured ratios to the reference, with this reason, after more rounds until each interval is
  at most ${MARGIN * 100} % of its median wide; not if one is wider than ${REFERENCE_WIDTH * 100} % after the last round. Use it on a quiet machine.
Exit status: 0 all ratios are good, 1 a ratio is worse, 2 wrong input, 3 not decided
Workloads (default ${DEFAULT_WORKLOADS.join(" ")}):
${WORKLOADS.map((workload) => workload.name).join(" ")}`;

function wrong(message: string): never {
  console.error(message);
  process.exit(STATUS.wrongInput);
}

const { values } = parseArgs({
  options: {
    only: { type: "string" },
    rounds: { type: "string", default: `${MIN_ROUNDS}` },
    "max-rounds": { type: "string", default: `${MAX_ROUNDS}` },
    "slice-seconds": { type: "string", default: "0.5" },
    "warm-up": { type: "string" },
    reference: { type: "string", default: REFERENCE },
    update: { type: "string" },
    help: { type: "boolean" },
  },
});
if (values.help) {
  console.log(HELP);
  process.exit();
}
const rounds = Number(values.rounds);
const maxRounds = Number(values["max-rounds"]);
const seconds = Number(values["slice-seconds"]);
if (!Number.isInteger(rounds) || rounds < MIN_ROUNDS) wrong(`--rounds ${values.rounds}: use ${MIN_ROUNDS} or more`);
if (!Number.isInteger(maxRounds) || maxRounds < rounds)
  wrong(`--max-rounds ${values["max-rounds"]}: use ${rounds} or more`);
if (!(seconds > 0)) wrong(`--slice-seconds ${values["slice-seconds"]}: use a positive number`);
const update = values.update;
if (update !== undefined && (update.trim() === "" || values.only !== undefined)) {
  wrong("--update needs a reason, and measures all workloads: leave out --only");
}
const names = values.only?.split(",") ?? DEFAULT_WORKLOADS;
const warmUp = values["warm-up"];
const named = names.map(
  (name) =>
    WORKLOADS.find((workload) => workload.name === name) ?? wrong(`--only ${name}: unknown workload; see --help`),
);

const workloads = named.map((workload) => ({ ...workload, warmOps: Number(warmUp ?? workload.warmOps) }));

function readReference(): Reference {
  try {
    return parseReference(readFileSync(values.reference, "utf8"));
  } catch (error) {
    wrong(`${values.reference}: ${(error as Error).message}`);
  }
}
const reference = update === undefined ? readReference() : null;
for (const { name } of workloads) {
  if (reference !== null && reference.ratios[name] === undefined) wrong(`${values.reference}: ratios.${name}: missing`);
}
if (!isIsolated()) {
  const { missing } = install(PROXIES, console.log);
  if (missing !== undefined) wrong(`nginx CONNECT: ${missing}`);
}
if (!isInstalled(YARDSTICK)) wrong(`nginx CONNECT: needs ${YARDSTICK.needs}`);
await isolate(OTHER_CORE);
await bundle();

/**
 * CPU time of one operation of outrider divided by that of the yardstick: the median of some slices of new processes.
 * Null without a figure of both. @throws PeerError if one of them fails operations
 */
async function measureOnce(crew: Crew, workload: Workload, round: number): Promise<number | null> {
  const running = [await startPeer(OUTRIDER, `${PROXY_CORE}`), await startPeer(YARDSTICK, `${PROXY_CORE}`)];
  const [, yardstick] = running;
  const options = { rounds: SLICES, seconds, core: PROXY_CORE };
  const series = await measureSlices(crew, workload, rotated(running, round), options);
  if (yardstick!.route(workload.what) === null) {
    series.push(...(await measureSlices(crew, SHORT_TUNNEL, [yardstick!], options)));
  }
  for (const proxy of running) await proxy.stop();
  const cpuOf = (name: string): number[] => {
    const { broken, slices } = series.find((one) => one.proxy === name)!;
    if (broken !== undefined) throw new PeerError(name, broken);
    return slices.map((slice) => slice.cpuUs);
  };
  return pairedRatio(cpuOf(OUTRIDER.name), cpuOf(YARDSTICK.name))?.median ?? null;
}

/** Ratios of the rounds of each workload. A round without a figure of both has none. */
const ratios = new Map<Workload, number[]>(workloads.map((workload) => [workload, []]));
const found = (workload: Workload) => interval(ratios.get(workload)!);
const needsMore = (workload: Workload): boolean =>
  reference === null
    ? widthOf(found(workload)) > MARGIN
    : judge(found(workload), reference.ratios[workload.name]!.median) === "not decided";

const about = {
  machine: cpus()[0]!.model,
  cores: cpus().length,
  node: process.version,
  yardstick: YARDSTICK.version(),
};
console.log(`${about.machine}, ${about.cores} cores, load ${loadAverage()}, Node.js ${about.node}, ${about.yardstick}`);
if (reference !== null) {
  const { machine, node, yardstick, date, reason } = reference;
  console.log(`reference: ${date}, ${machine}, Node.js ${node}, ${yardstick}: ${reason}`);
}

const crew = await startCrew();
const expectedSeconds = ROUND_EXTRA_SECONDS + 2 * SLICES * seconds;
const progress = startProgress(
  Array.from({ length: rounds }, (_, round) =>
    workloads.map(({ name }) => ({ name: `round ${round + 1}: ${name}`, seconds: expectedSeconds })),
  ).flat(),
);
try {
  for (let round = 0; round < maxRounds; round++) {
    const undecided = workloads.filter((workload) => round < rounds || needsMore(workload));
    for (const workload of undecided) {
      if (round < rounds) progress.show(`round ${round + 1}: ${workload.name}`);
      const ratio = await measureOnce(crew, workload, round);
      if (ratio !== null) ratios.get(workload)!.push(ratio);
    }
    if (round === rounds - 1) progress.end();
    if (round >= rounds - 1 && round + 1 < maxRounds && workloads.some(needsMore)) {
      console.log(
        `round ${round + 2}: ${workloads
          .filter(needsMore)
          .map((workload) => workload.name)
          .join(", ")}`,
      );
    }
  }
} catch (error) {
  if (!(error instanceof PeerError)) throw error;
  progress.end();
  console.error(error.message);
  process.exit(STATUS.worse);
}
crew.close();

if (reference !== null) {
  const verdicts = workloads.map((workload) => {
    const { median } = reference.ratios[workload.name]!;
    console.log(verdictLine(workload.name, found(workload), median));
    return judge(found(workload), median);
  });
  if (verdicts.includes("worse")) process.exit(STATUS.worse);
  process.exit(verdicts.includes("not decided") ? STATUS.notDecided : STATUS.ok);
}
const noisy = workloads.filter((workload) => widthOf(found(workload)) > REFERENCE_WIDTH).map(({ name }) => name);
for (const workload of workloads) console.log(`${workload.name}: ${JSON.stringify(found(workload))}`);
if (noisy.length > 0) {
  console.error(
    `not updated: ${noisy.join(", ")}: the interval is wider than ${REFERENCE_WIDTH * 100} %; use a quieter machine`,
  );
  process.exit(STATUS.notDecided);
}
const date = new Date().toISOString().slice(0, 10);
const measured = Object.fromEntries(workloads.map((workload) => [workload.name, found(workload)!]));
writeFileSync(values.reference, referenceText({ ...about, date, reason: update!, ratios: measured }));
console.log(`updated: ${values.reference}`);
process.exit();
