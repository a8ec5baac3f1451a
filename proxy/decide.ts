import type { Failure } from "./errors.ts";
import { type Address, formatAddress, parseAddress } from "./policy/cidr.ts";
import { decideName, type PolicySet, vetAll } from "./policy/engine.ts";
import type { Target } from "./policy/target.ts";
import type { Record } from "./record.ts";
import type { Names } from "./resolve.ts";

/** Where a permitted request may go: vetted addresses only. */
export type Route = { addresses: readonly Address[] } | Failure;

/**
 * Decides one target: name stage, resolve, vet. Fills rule, reason, addresses and times into the record and calls
 * `done` once, maybe before it returns. The returned function drops the waiting for DNS.
 */
export function decideTarget(
  set: PolicySet,
  names: Names,
  target: Target,
  record: Record,
  done: (route: Route) => void,
): () => void {
  const stage = decideName(set, target);
  if ("code" in stage) {
    done(stage);
    return () => {};
  }
  const vetted = (addresses: readonly Address[]) => {
    record.addresses = addresses.map(formatAddress);
    const all = vetAll(set, target, stage, addresses);
    if (all.refusal !== undefined) {
      const full = set.document.proxy.reasonDetail === "Full" ? ` (${record.addresses.join(", ")})` : "";
      done({ ...all.refusal, reason: all.refusal.reason + full });
      return;
    }
    record.rule = all.rule;
    if (all.wouldDeny !== undefined) record.wouldDeny = all.wouldDeny;
    done({ addresses: all.dial });
  };
  if (target.ip) {
    vetted([parseAddress(target.host)!]);
    return () => {};
  }
  const asked = performance.now();
  return names.lookup(target.host, (answer) => {
    record.dnsMs = performance.now() - asked;
    if ("code" in answer) done(answer);
    else vetted(answer.addresses);
  });
}
