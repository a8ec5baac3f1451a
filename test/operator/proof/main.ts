import { parseArgs } from "node:util";
import { controlPlaneMissing } from "../../cluster/control-plane.ts";
import { bundledOperator } from "./build.ts";
import { contention } from "./contention.ts";
import { crashPoints } from "./crash-points.ts";
import { laneSlots } from "./lane.ts";
import { restarts } from "./restarts.ts";
import { Run } from "./run.ts";
import { sequences } from "./sequences.ts";
import { stale } from "./stale.ts";
import { upgrade } from "./upgrade.ts";
import { PLANE, startWorld } from "./world.ts";

const HELP = `Usage: make prove [ARGS="OPTIONS"] [SEED=NUMBER]

Perturbs the operator on a real control plane with played proxies, and checks invariants and end states.

  --only NAME     one method: upgrade, restarts, crash-points, stale, sequences, contention
  --case TEXT     only stories and cases whose name contains this
  --minutes N     limit of the whole run (default: 25)
  --lanes N       runs beside each other (default: 6)
  --help          print this help
`;

/** Methods with their share of the time. */
const METHODS = {
  upgrade: { share: 0.03, run: upgrade },
  restarts: { share: 0.05, run: restarts },
  "crash-points": { share: 0.32, run: crashPoints },
  stale: { share: 0.12, run: stale },
  sequences: { share: 0.38, run: sequences },
  contention: { share: 0.1, run: contention },
} as const;
type Method = keyof typeof METHODS;

const MINUTE_MS = 60_000;

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      only: { type: "string" },
      case: { type: "string" },
      minutes: { type: "string", default: "25" },
      lanes: { type: "string", default: "6" },
      help: { type: "boolean", default: false },
    },
  });
  if (values.help) {
    console.log(HELP);
    return 0;
  }
  const names = Object.keys(METHODS) as Method[];
  const chosen = values.only === undefined ? names : names.filter((name) => name === values.only);
  const [minutes, lanes] = [Number(values.minutes), Number(values.lanes)];
  if (chosen.length === 0 || !(minutes > 0) || !(lanes >= 1)) {
    console.error(`prove: --only must be one of ${names.join(", ")}; --minutes and --lanes must be numbers`);
    return 2;
  }
  const missing = controlPlaneMissing(PLANE);
  if (missing !== null) {
    console.error(`prove: ${missing}`);
    return 2;
  }
  const seed = Number(process.env.SEED ?? Date.now() & 0x7fffffff);
  console.log(`SEED=${seed}: ${chosen.join(", ")}, ${minutes} minutes at most, ${lanes} lanes`);
  const part = values.case;
  const only = part === undefined ? {} : { only: (name: string) => name.includes(part) };
  const run = new Run({ seed, ms: minutes * MINUTE_MS, ...only });
  const { command, clear } = await bundledOperator();
  const world = await startWorld();
  try {
    const slots = await laneSlots(world, command, lanes);
    const whole = chosen.reduce((sum, name) => sum + METHODS[name].share, 0);
    for (const name of chosen) {
      const began = Date.now();
      run.limit((minutes * MINUTE_MS * METHODS[name].share) / whole);
      console.log(`${name}:`);
      await METHODS[name].run(world, slots, run);
      console.log(`  ${run.figures()} (${Math.round((Date.now() - began) / 1000)} s)`);
    }
    for (const { faults } of slots) await faults.close();
  } finally {
    await world.stop();
    clear();
  }
  for (const line of run.summary()) console.log(line);
  console.log(`SEED=${seed}: ${run.figures()}`);
  return run.violations.length === 0 ? 0 : 1;
}

for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => process.exit(1));
process.exit(await main());
