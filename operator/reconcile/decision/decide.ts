import type { EgressPolicy } from "../../api/egresspolicy.ts";
import { providerOf } from "../../providers/index.ts";
import type { Facts } from "../facts/facts.ts";
import type { Accepted } from "../objects/configmap.ts";
import type { Verdict } from "../status/status.ts";
import { judgeSpec, type Refusal } from "./accept.ts";
import { type Desired, desire, type FleetOptions } from "./desire.ts";
import { documentOf } from "./document.ts";
import { surplusOf } from "./handover.ts";

/** What has to be done for a policy. */
export interface Decision {
  /** Why its spec is not taken; undefined: it is. */
  refusal: Refusal | undefined;
  /** The newest spec, where it was accepted. */
  accepted: Accepted | undefined;
  /** What is reconciled; undefined: nothing is. */
  effective: Verdict["effective"];
  /** Why the spec that was accepted before is refused as well: then all is left as it stands. */
  stands: Refusal | undefined;
  desired: Desired | undefined;
}

/** Pure. `kept`: gives the spec that was accepted last, asked for only when the newest one is refused. */
export function decide(facts: Facts, kept: () => EgressPolicy["spec"] | undefined, options: FleetOptions): Decision {
  const judged = judgeSpec(facts);
  const accepted = "accepted" in judged ? judged.accepted : undefined;
  const refusal = "accepted" in judged ? undefined : judged;
  const spec = accepted === undefined ? kept() : facts.policy.spec;
  const nothing = { refusal, accepted, effective: undefined, desired: undefined };
  if (spec === undefined) return { ...nothing, stands: undefined };
  const policy = { ...facts.policy, spec };
  // What was accepted once is judged again: it lies where others may write, and a grant may have been taken back.
  const again = accepted === undefined ? judgeSpec({ ...facts, policy }) : { accepted };
  if (!("accepted" in again)) return { ...nothing, stands: again };
  const provider = providerOf(spec)!;
  const surplus = surplusOf(facts, spec, provider);
  const document = documentOf(policy, facts.blockedCIDRs, surplus.former);
  const effective = { spec, hash: document.hash, provider };
  const desired = desire(facts, spec, document, provider, surplus, options);
  return { refusal, accepted, effective, stands: undefined, desired };
}
