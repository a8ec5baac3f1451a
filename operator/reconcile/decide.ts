import type { EgressPolicy } from "../api/egresspolicy.ts";
import { providerOf } from "../providers/index.ts";
import { judgeSpec, type Refusal } from "./accept.ts";
import { type Desired, desire, type FleetOptions } from "./desire.ts";
import { documentOf } from "./document.ts";
import type { Facts } from "./facts.ts";
import type { Verdict } from "./judge.ts";
import type { Accepted } from "./resources/configmap.ts";

/** What has to be done for a policy. */
export interface Decision {
  /** Why its spec is not taken; undefined: it is. */
  refusal: Refusal | undefined;
  /** The newest spec, where it was accepted. */
  accepted: Accepted | undefined;
  /** What is reconciled; undefined: no spec was ever accepted. */
  effective: Verdict["effective"];
  desired: Desired | undefined;
}

/** Pure. `kept`: gives the spec that was accepted last, asked for only when the newest one is refused. */
export function decide(facts: Facts, kept: () => EgressPolicy["spec"] | undefined, options: FleetOptions): Decision {
  const judged = judgeSpec(facts);
  const accepted = "accepted" in judged ? judged.accepted : undefined;
  const refusal = "accepted" in judged ? undefined : judged;
  const spec = accepted === undefined ? kept() : facts.policy.spec;
  const provider = spec === undefined ? undefined : providerOf(spec);
  if (spec === undefined || provider === undefined) {
    return { refusal, accepted, effective: undefined, desired: undefined };
  }
  const document = accepted ?? documentOf({ ...facts.policy, spec }, facts.blockedCIDRs);
  const effective = { spec, hash: document.hash, provider };
  return { refusal, accepted, effective, desired: desire(facts, spec, document, provider, options) };
}
