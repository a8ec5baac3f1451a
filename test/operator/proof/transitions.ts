import fc from "fast-check";
import type { Lane } from "./lane.ts";
import { external, invalid, kubeVIP, nodeAddress, notGranted, podIP, type StaticIP } from "./specs.ts";
import { NODE_IPS, NOWHERE, VIPS } from "./world.ts";

/** Names of the policies, with the namespace of each. */
export const POLICIES = [
  { name: "one", namespace: 0 },
  { name: "two", namespace: 0 },
  { name: "three", namespace: 1 },
];
const PROVIDERS = ["External", "PodIP", "NodeAddress", "KubeVIP"] as const;
const PHASES = ["Active", "Active", "Retiring", "Pending"] as const;
/** A spec, by what matters for decisions. */
export interface Choice {
  provider: (typeof PROVIDERS)[number];
  /** Phases of the addresses of the policy: the first one of `ips` is always Active. */
  ips: readonly (typeof PHASES)[number][];
  /** Begins with the second address. */
  turned: boolean;
  verified: boolean;
  edit: number;
  label: number;
  replicas: number;
}

/** A change of one policy. */
export interface Transition {
  policy: number;
  kind: "spec" | "spec too" | "delete" | "invalid" | "notGranted" | "nowhere" | "all pending" | "all retiring";
  choice: Choice;
  /** Pause before the next change. */
  pause: "none" | "short" | "settle";
}

const choices: fc.Arbitrary<Choice> = fc.record({
  provider: fc.constantFrom(...PROVIDERS),
  ips: fc.array(fc.constantFrom(...PHASES), { minLength: 1, maxLength: 2 }),
  turned: fc.boolean(),
  verified: fc.boolean(),
  edit: fc.nat(2),
  label: fc.nat(2),
  replicas: fc.integer({ min: 1, max: 2 }),
});
export const transitions: fc.Arbitrary<Transition> = fc.record({
  policy: fc.nat(POLICIES.length - 1),
  kind: fc.oneof(
    { weight: 10, arbitrary: fc.constant("spec" as const) },
    { weight: 5, arbitrary: fc.constantFrom("delete" as const, "invalid" as const, "notGranted" as const) },
    { weight: 3, arbitrary: fc.constantFrom("nowhere" as const, "all pending" as const, "all retiring" as const) },
  ),
  choice: choices,
  pause: fc.oneof(
    { weight: 6, arbitrary: fc.constant("none" as const) },
    { weight: 8, arbitrary: fc.constant("short" as const) },
    { weight: 1, arbitrary: fc.constant("settle" as const) },
  ),
});

/** Whether the operator rejects a spec of this kind. The accepted one before stays in force. */
export const isRejected = ({ kind }: Transition) => kind === "invalid" || kind === "notGranted";
/** Whether a spec of this kind can be satisfied, so that only the last spec counts. */
export const isPlain = ({ kind }: Transition) => kind === "spec" || kind === "spec too" || kind === "delete";

export function specOf({ policy, kind, choice }: Transition, lane: Lane): object {
  const { provider, ips, turned, verified, replicas } = choice;
  const pool = (all: readonly string[]) => [2 * policy, 2 * policy + 1].map((i) => all[i]!);
  const of = (all: readonly string[]): StaticIP[] => {
    const own = turned ? pool(all).reverse() : pool(all);
    const phase = (i: number): StaticIP["phase"] => {
      if (kind === "all pending") return "Pending";
      if (kind === "all retiring") return "Retiring";
      return i === 0 ? "Active" : ips[i]!;
    };
    const listed = ips.map((_, i) => ({ address: own[i]!, phase: phase(i)! }));
    return kind === "nowhere" ? [...listed, { address: NOWHERE, phase: "Active" }] : listed;
  };
  // The schema rejects Block without an address that is not Pending.
  const change = {
    edit: `edit-${choice.edit}`,
    ...(choice.label === 0 ? {} : { label: `l${choice.label}` }),
    verified: verified && kind !== "all pending",
    replicas,
  };
  const ports = lane.ports(policy);
  if (kind === "notGranted") return notGranted(ports);
  const whole = () => {
    if (kind === "nowhere") return nodeAddress(of(NODE_IPS), ports, change);
    switch (provider) {
      case "External":
        return external(of(VIPS), change);
      case "PodIP":
        return podIP(change);
      case "NodeAddress":
        return nodeAddress(of(NODE_IPS), ports, change);
      case "KubeVIP":
        return kubeVIP(of(VIPS), ports, change);
    }
  };
  return kind === "invalid" ? invalid(whole()) : whole();
}

/** A transition in one line. */
export const shown = ({ policy, kind, choice, pause }: Transition) =>
  `${POLICIES[policy]!.name} ${kind} ${JSON.stringify(choice)}, ${pause}`;
