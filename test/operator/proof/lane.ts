import { setTimeout as sleep } from "node:timers/promises";
import type { EgressPolicy } from "../../../operator/api/egresspolicy.ts";
import { childName, LABEL, PUBLISHED_KEY } from "../../../operator/api/names.ts";
import { type ConfigMap, type Deployment, isRolledOut, type Pod } from "../../../operator/api/objects.ts";
import { type FaultProxy, isWrite, startFaultProxy } from "../../cluster/fault-proxy.ts";
import {
  applyPolicy,
  conditionOf,
  makeNamespace,
  makePasswords,
  type Operator,
  type OperatorOptions,
  policyPath,
  startOperator,
} from "../operator.ts";
import { Invariants } from "./invariants.ts";
import { type Snapshot, snapshot } from "./snapshot.ts";
import type { Violation } from "./violation.ts";
import { ALL_GRANTED, type World } from "./world.ts";

const LOOK_MS = 50;
const SETTLE_MS = 90_000;
const TURNS = 8;
/**
 * A policy that is not Ready may only wait for a busy machine, or for another slot. An address leaves the list some seconds
 * after the last write of the document.
 */
const BEHIND_MS = 8000;

/** Requests that are no writes of policies and fleets: leases, events, and reviews. */
const isOther = (path: string) => /\/(leases|events|tokens)(\/|\?|$)/.test(path);

/** Whether a request of an operator changes a policy, a fleet or what belongs to them. */
export const isFleetWrite = (method: string, path: string): boolean =>
  isWrite({ method, path, user: "" }) && !isOther(path);

export interface LaneOptions {
  /** Options of every operator. */
  args?: readonly string[];
  /** Content of the grants file. */
  grants?: string;
}

/**
 * One run of a scenario: fresh namespaces, an operator that watches them alone, a proxy between it and the API server,
 * and the live invariants. Lanes run beside each other on one control plane: each has its own ports.
 */
export class Lane {
  readonly world: World;
  readonly namespaces: readonly string[];
  readonly faults: FaultProxy;
  readonly command: readonly string[];
  readonly #number: number;
  /** The proxies of the lane before may still drain: its ports come again after some lanes. */
  readonly #turn: number;
  readonly #invariants: Invariants;
  readonly #operators: Operator[] = [];
  readonly #violations: Violation[] = [];
  readonly #unsubscribe: () => void;
  #grants: string;
  #changedAt = Date.now();

  private constructor(world: World, slot: LaneSlot, namespaces: readonly string[]) {
    this.world = world;
    this.namespaces = namespaces;
    this.faults = slot.faults;
    this.command = slot.command;
    this.#number = slot.number;
    this.#turn = slot.runs % TURNS;
    this.#grants = world.grants(ALL_GRANTED);
    this.#invariants = new Invariants(world, namespaces);
    const listener: Parameters<typeof world.observer.listeners.add>[0] = ({ object }) => {
      if (namespaces.includes(object.metadata.namespace!)) this.#changedAt = Date.now();
    };
    world.observer.listeners.add(listener);
    this.#unsubscribe = () => world.observer.listeners.delete(listener);
  }

  /** Makes the namespaces of a run. */
  static async open(world: World, slot: LaneSlot, count = 1): Promise<Lane> {
    slot.runs++;
    const namespaces = Array.from({ length: count }, (_, i) => `lane${slot.number}-${slot.runs}${"abc"[i]}`);
    for (const namespace of namespaces) {
      await makeNamespace(world.plane, namespace);
      await makePasswords(world.plane, namespace);
    }
    return new Lane(world, slot, namespaces);
  }

  /** Ports of the proxies of a policy, which no other lane uses: `index` counts the policies of the lane. */
  ports(index: number): { port: number; adminPort: number } {
    const port = 5000 + 200 * this.#number + 20 * this.#turn + 2 * index;
    return { port, adminPort: port + 1 };
  }

  setGrants(text: string): void {
    this.#grants = this.world.grants(text);
  }

  /** Starts an operator. Without `leads` it waits for the Lease. */
  async start(options: { leads?: boolean } & Pick<OperatorOptions, "server" | "command" | "image" | "args"> = {}) {
    const { leads = true, server = this.faults.url, command = this.command } = options;
    const operator = await startOperator(this.world.plane, {
      command,
      server,
      ...(options.image === undefined ? {} : { image: options.image }),
      leaseNamespace: this.namespaces[0]!,
      name: `operator-${this.#number}`,
      hasPages: false,
      args: [
        ...(leads ? ["--leader-elect=off"] : []),
        ...this.namespaces.map((name) => `--namespaces=${name}`),
        "--scrape-seconds=1",
        `--grants=${this.#grants}`,
        ...(options.args ?? []),
      ],
    });
    this.#operators.push(operator);
    if (leads) await operator.untilLeading(SETTLE_MS);
    return operator;
  }

  apply(namespace: string, name: string, spec: object): Promise<void> {
    this.#changedAt = Date.now();
    return applyPolicy(this.world.plane, namespace, name, spec);
  }

  delete(namespace: string, name: string): Promise<void> {
    this.#changedAt = Date.now();
    return this.world.plane.delete(policyPath(namespace, name));
  }

  /** A sender that was injected with a policy. */
  async addSender(namespace: string, policy: string): Promise<void> {
    const path = `/api/v1/namespaces/${namespace}/pods/sender-${policy}`;
    const metadata = { name: `sender-${policy}`, labels: { [LABEL.injected]: policy } };
    const spec = { containers: [{ name: "sender", image: "sender:test" }] };
    await this.world.plane.apply(path, { apiVersion: "v1", kind: "Pod", metadata, spec });
  }

  async removeSender(namespace: string, policy: string): Promise<void> {
    await this.world.plane.delete(`/api/v1/namespaces/${namespace}/pods/sender-${policy}`);
  }

  #unsettled(quietMs: number): string | undefined {
    const { observer } = this.world;
    const policies = observer.list<EgressPolicy>("policy", this.namespaces);
    const behind =
      observer.list<Deployment>("deployment", this.namespaces).some((one) => !isRolledOut(one)) ||
      policies.some(
        (one) => conditionOf(one, "Accepted")?.status === "True" && conditionOf(one, "Ready")?.status !== "True",
      ) ||
      policies.some((one) => this.#publishesLeaving(one));
    const quiet = behind ? Math.max(quietMs, BEHIND_MS) : quietMs;
    if (Date.now() - this.#changedAt < quiet) return "something still changes";
    const old = policies.find(({ metadata, status }) => {
      if (status?.observedGeneration !== metadata.generation) return true;
      return status?.conditions?.some((one) => one.observedGeneration !== metadata.generation);
    });
    if (old !== undefined) return `the status of ${old.metadata.name} is not current`;
    const ending = observer.list<Pod>("pod", this.namespaces).find(({ metadata }) => metadata.deletionTimestamp);
    return ending === undefined ? undefined : `pod ${ending.metadata.name} terminates`;
  }

  /** Whether a policy publishes an address as retiring that its spec does not retire. */
  #publishesLeaving({ metadata: { namespace, name }, spec }: EgressPolicy): boolean {
    const list = this.world.observer.get<ConfigMap>("configMap", `${namespace}/${childName.published(name)}`);
    const { retiring } = JSON.parse(list?.data?.[PUBLISHED_KEY] ?? '{"retiring":[]}') as { retiring: string[] };
    return retiring.some((one) => !spec.staticIPs?.some((ip) => ip.address === one && ip.phase === "Retiring"));
  }

  /** Waits until nothing changes for a while. */
  async settle(quietMs = 1500): Promise<void> {
    for (const began = Date.now(); ; await sleep(LOOK_MS)) {
      const why = this.#unsettled(quietMs);
      if (why === undefined) return;
      if (Date.now() - began < SETTLE_MS) continue;
      this.#violations.push({ invariant: "settling", text: `not settled within ${SETTLE_MS} ms: ${why}` });
      return;
    }
  }

  /** Waits until a policy is accepted or rejected. */
  async untilJudged(namespace: string, name: string): Promise<void> {
    const wanted = (policy: EgressPolicy | undefined) =>
      policy === undefined || conditionOf(policy, "Accepted")?.observedGeneration === policy.metadata.generation;
    await this.world.plane.until(policyPath(namespace, name), wanted, `${name} is judged`, SETTLE_MS);
  }

  /** Lets the next replica lead at once. The Lease of a killed one expires after 15 s. */
  async freeLease(): Promise<void> {
    const path = `/apis/coordination.k8s.io/v1/namespaces/${this.namespaces[0]}/leases/outrider-operator`;
    await this.world.plane.delete(path);
  }

  /**
   * Waits until all Deployments are rolled out with pods that have a text in their template, such as an image. Reports it
   * if they are not in time.
   */
  async untilRolledOut(text: string): Promise<void> {
    const late = () =>
      this.world.observer
        .list<Deployment>("deployment", this.namespaces)
        .filter((one) => !isRolledOut(one) || !JSON.stringify(one.spec).includes(text))
        .map(({ metadata }) => metadata.name);
    for (const began = Date.now(); late().length > 0; await sleep(LOOK_MS)) {
      if (Date.now() - began < SETTLE_MS) continue;
      this.report({
        invariant: "end state",
        text: `not rolled out with ${text} within ${SETTLE_MS} ms: ${late().join(", ")}`,
      });
      return;
    }
  }

  /** Waits until every policy is Ready. @throws if one is not in time */
  async untilReady(): Promise<void> {
    for (const began = Date.now(); this.unready().length > 0; await sleep(LOOK_MS)) {
      if (Date.now() - began > SETTLE_MS)
        throw new Error(`not Ready within ${SETTLE_MS} ms: ${this.unready().join("; ")}`);
    }
  }

  /** Policies that are not Ready, with the reason. */
  unready(): string[] {
    return this.world.observer.list<EgressPolicy>("policy", this.namespaces).flatMap((policy) => {
      const ready = policy.status?.conditions?.find(({ type }) => type === "Ready");
      return ready?.status === "True"
        ? []
        : [`${policy.metadata.name} is not Ready: ${ready?.reason} ${ready?.message}`];
    });
  }

  report(violation: Violation): void {
    this.#violations.push(violation);
  }

  /** State without what differs between lanes. */
  snapshot(): Promise<Snapshot> {
    const names = this.namespaces.map((name, i) => [name, `ns-${"abc"[i]}`] as const);
    const ports = [0, 1, 2, 3].flatMap((i) => {
      const { port, adminPort } = this.ports(i);
      return [[`${port}`, `port-${i}`] as const, [`${adminPort}`, `admin-${i}`] as const];
    });
    return snapshot(this.world.plane, this.namespaces, [...names, ...ports]);
  }

  /** Violations since the last call. */
  take(): Violation[] {
    const problems = this.world.observer.problems.splice(0).map((text): Violation => ({ invariant: "settling", text }));
    return [...this.#violations.splice(0), ...this.#invariants.take(), ...problems];
  }

  /** Ends the operators and the invariants, and deletes the namespaces. Returns what was violated. */
  async close(): Promise<Violation[]> {
    const found = this.take();
    this.#invariants.stop();
    this.#unsubscribe();
    this.faults.endFaults();
    await Promise.all(this.#operators.map((operator) => operator.stop("SIGKILL")));
    for (const namespace of this.namespaces) {
      for (const { metadata } of this.world.observer.list("policy", [namespace])) {
        const patch = { metadata: { finalizers: null } };
        await this.world.plane.patch(policyPath(namespace, metadata.name), patch).catch(() => undefined);
      }
      await this.world.plane.delete(`/api/v1/namespaces/${namespace}`);
    }
    return found;
  }
}

/** Shared parts of the lanes of one number, which run one after the other. */
export interface LaneSlot {
  number: number;
  runs: number;
  faults: FaultProxy;
  command: readonly string[];
}

/** Makes slots for lanes that run beside each other. `first`: the number of the first one. */
export async function laneSlots(
  world: World,
  command: readonly string[],
  count: number,
  first = 0,
): Promise<LaneSlot[]> {
  const slots: LaneSlot[] = [];
  // One after the other: each writes a certificate of the same name.
  for (let number = first; number < first + count; number++) {
    slots.push({ number, runs: 0, faults: await startFaultProxy(world.plane), command });
  }
  return slots;
}
