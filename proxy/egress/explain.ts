import type { Names } from "../dns/names.ts";
import { type Code, phraseOf } from "../outcome/refusals.ts";
import { formatAddress } from "../policy/cidr.ts";
import type { PolicySet } from "../policy/engine.ts";
import { type Explanation, explain, needsAddresses } from "../policy/explain.ts";
import type { Target } from "../policy/target.ts";

/** Explains a target with the addresses of a resolver, on the same path as the proxy's own requests. */
export function explainTarget(set: PolicySet, names: Names, target: Target): Promise<Explanation> {
  if (!needsAddresses(set, target)) return Promise.resolve(explain(set, target, null));
  return new Promise((resolve) => {
    names.lookup(target.host, (answer) => {
      if ("code" in answer) resolve({ ...explain(set, target, null), verdict: "unknown", ...answer });
      else resolve(explain(set, target, answer.addresses.map(formatAddress)));
    });
  });
}

/** The reason phrase that a sender gets for a target that is refused or cannot be resolved. */
export function phraseFor(explanation: Explanation, policy: string): string {
  return phraseOf({ code: explanation.code as Code, reason: explanation.reason }, policy);
}
