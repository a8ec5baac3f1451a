import type { DnsAnswer } from "../dns/answer.ts";
import type { Names } from "../dns/names.ts";
import type { AccessRecord } from "../outcome/access-record.ts";
import type { Failure } from "../outcome/refusals.ts";
import { type Address, formatAddress, parseAddress } from "../policy/cidr.ts";
import { decideName, type PolicySet, sendsName, vetAll, vetName } from "../policy/engine.ts";
import type { Target } from "../policy/target.ts";
import type { Gate } from "./gate.ts";
import type { Routes } from "./route.ts";
import { reaches } from "./source-address.ts";

/** Addresses of one name that a record and a reason show. The others are counted (a record is one line of a log). */
const MAX_SHOWN = 16;

/**
 * Where a permitted request may go: vetted addresses, each with the egress path of its family. No address: the upstream
 * proxy gets the name, and both families have the same path.
 */
export interface Destinations {
  addresses: readonly Address[];
  routes: Routes;
}

/** Context of a decision besides the request's policy. */
interface Deciding {
  readonly names: Names;
  readonly gate: Pick<Gate, "routesFor" | "entry" | "refusal">;
  /** The only family that is of use. Absent: both. */
  readonly family?: 4 | 6;
}

/** Writes the addresses into the record: the first ones, and the number of the others. */
function note(record: AccessRecord, addresses: readonly Address[], more: number): void {
  const shown = addresses.length > MAX_SHOWN ? addresses.slice(0, MAX_SHOWN) : addresses;
  record.addresses = shown.map(formatAddress);
  const cut = addresses.length - shown.length + more;
  if (cut > 0) record.addressesCut = cut;
}

/** The addresses of the record as a part of a reason. */
function listOf({ addresses = [], addressesCut }: AccessRecord): string {
  const cut = addressesCut === undefined ? "" : `, and ${addressesCut} more`;
  return ` (${addresses.join(", ")}${cut})`;
}

/**
 * Decides one target: name stage, gate, resolve, vet. Writes rule, reason, addresses and times into the record and
 * calls `done` once, possibly before it returns. `client`: the key by which DNS lookups of clients share their slots.
 * The returned function cancels the DNS lookup.
 */
export function decideTarget(
  set: PolicySet,
  { names, gate, family }: Deciding,
  client: string,
  target: Target,
  record: AccessRecord,
  done: (result: Destinations | Failure) => void,
): () => void {
  const stage = decideName(set, target);
  if ("code" in stage) {
    done(stage);
    return () => {};
  }
  const routes = gate.routesFor(target.host);
  const shut = gate.entry(routes);
  if (shut !== null) {
    done(shut);
    return () => {};
  }
  if (sendsName(set, target)) {
    const { rule, refusal, wouldDeny } = vetName(set, target, stage);
    if (refusal !== undefined) {
      done(refusal);
      return () => {};
    }
    record.rule = rule;
    if (wouldDeny !== undefined) record.wouldDeny = wouldDeny;
    const open = gate.refusal(routes[4]) === null ? routes[4] : routes[6];
    done({ addresses: [], routes: { 4: open, 6: open } });
    return () => {};
  }
  const vetted = (addresses: readonly Address[], more: number) => {
    note(record, addresses, more);
    const all = vetAll(set, target, stage, addresses);
    if (all.refusal !== undefined) {
      const full = set.document.proxy.reasonDetail === "Full" ? listOf(record) : "";
      done({ ...all.refusal, reason: all.refusal.reason + full });
      return;
    }
    record.rule = all.rule;
    if (all.wouldDeny !== undefined) record.wouldDeny = all.wouldDeny;
    // One family may be proven while the other is not.
    const open = all.dial.filter((address) => gate.refusal(routes[address.family]) === null);
    if (open.length > 0) done({ addresses: open, routes });
    else done(gate.refusal(routes[all.dial[0]!.family])!);
  };
  /** Whether the addresses of one family lead somewhere, so that the request need not wait for the other one. */
  const enough = (addresses: readonly Address[]): boolean => {
    const all = vetAll(set, target, stage, addresses);
    if (all.refusal !== undefined) return false;
    return all.dial.some((address) => {
      const route = routes[address.family];
      if (family !== undefined && family !== address.family) return false;
      return gate.refusal(route) === null && (route?.source !== undefined || reaches(address));
    });
  };
  if (target.ip) {
    vetted([parseAddress(target.host)!], 0);
    return () => {};
  }
  const asked = performance.now();
  const answered = (answer: DnsAnswer) => {
    record.dnsMs = performance.now() - asked;
    if ("code" in answer) done(answer);
    else vetted(answer.addresses, answer.more ?? 0);
  };
  return names.lookup(target.host, answered, { client, enough });
}

/**
 * Decides again for the dialled address, without DNS: null when it is still permitted. `address` null: the upstream proxy
 * resolved the name.
 */
export function decideAgain(
  set: PolicySet,
  target: Target,
  address: Address | null,
  record: AccessRecord,
): Failure | null {
  const stage = decideName(set, target);
  if ("code" in stage) return stage;
  const all = address === null ? vetName(set, target, stage) : vetAll(set, target, stage, [address]);
  if (all.refusal !== undefined) return all.refusal;
  if (all.wouldDeny !== undefined) record.wouldDeny = all.wouldDeny;
  return null;
}
