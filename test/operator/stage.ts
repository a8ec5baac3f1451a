import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { after } from "node:test";
import { type ControlPlane, type PlaneOptions, startControlPlane } from "../cluster/control-plane.ts";
import { type FleetOptions, FleetRunner } from "../cluster/fleet.ts";
import { install, makeNamespace, type Operator, type OperatorOptions, startOperator } from "./operator.ts";

export interface StageOptions {
  plane: PlaneOptions;
  /** Namespaces to create. */
  namespaces?: readonly string[];
  /** Content of the `--grants` file of every operator. Default: no such file. */
  grants?: string;
  /** Prepares the cluster for the operator, and returns its options. */
  operator(plane: ControlPlane): OperatorOptions | Promise<OperatorOptions>;
  fleet?: FleetOptions;
}

/** A control plane, an operator that leads, and a kubelet that runs the proxies of its fleets. */
export interface Stage {
  plane: ControlPlane;
  operator: Operator;
  fleet: FleetRunner;
  /** Starts another operator and waits until it leads. `options` replace those of the first one. */
  again(options?: OperatorOptions): Promise<Operator>;
}

/** Registered here: an `after` inside a `before` hook runs at the end of this hook (seen with Node 24.21). */
const ends: (() => Promise<void>)[] = [];
after(async () => {
  for (const end of ends.reverse()) await end();
});

/** Starts a stage. Call it in a `before` hook: everything ends after the last test, even if the start fails halfway. */
export async function startStage(options: StageOptions): Promise<Stage> {
  const plane = await startControlPlane({ install, ...options.plane });
  ends.push(() => plane.stop());
  for (const namespace of options.namespaces ?? []) await makeNamespace(plane, namespace);
  const grants = join(plane.folder, "grants.yaml");
  if (options.grants !== undefined) writeFileSync(grants, options.grants);
  const own = await options.operator(plane);
  const again = async (more: OperatorOptions = {}) => {
    const all = { ...own, ...more };
    const granted = options.grants === undefined ? [] : [`--grants=${grants}`];
    const operator = await startOperator(plane, { ...all, args: [...(all.args ?? []), ...granted] });
    ends.push(() => operator.stop("SIGKILL"));
    await operator.untilLeading();
    return operator;
  };
  const operator = await again();
  const fleet = new FleetRunner(plane, options.fleet);
  fleet.start();
  ends.push(() => fleet.stop());
  return { plane, operator, fleet, again };
}
