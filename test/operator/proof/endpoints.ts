import type { EgressPolicy } from "../../../operator/api/egresspolicy.ts";
import { childName, LABEL } from "../../../operator/api/names.ts";
import { isReady, isUnschedulable, type Pod, type Service } from "../../../operator/api/objects.ts";
import { SHARED } from "../../../operator/fleet/slots.ts";
import { keyOf } from "../../../operator/kube/resource.ts";
import type { Report, Rule } from "./violation.ts";
import type { World } from "./world.ts";

/** Watches of two kinds arrive at different times. A fleet that drains as a whole is away for longer. */
const TOLERATED_MS = 1000;
/** A restarted only slot has to be selected within this time after its gate has opened. */
const SELECTED_MS = 5000;
/** A slot that served this long ago still counts as one of several. */
const MEMORY_MS = 5000;

interface Fleet {
  uid: string;
  served: boolean;
  /** Time without an endpoint so far, in milliseconds. */
  outageMs: number;
  /** When each slot last served. */
  slots: Map<string, number>;
  last: number;
}

const matches = (pod: Pod, selector: Record<string, string>) =>
  Object.entries(selector).every(([key, value]) => pod.metadata.labels?.[key] === value);

/** I1: a client Service that had a ready endpoint is not without one, except while the only slot restarts. */
export class Endpoints implements Rule {
  readonly #world: World;
  readonly #namespaces: readonly string[];
  readonly #report: Report;
  readonly #fleets = new Map<string, Fleet>();

  constructor(world: World, namespaces: readonly string[], report: Report) {
    this.#world = world;
    this.#namespaces = namespaces;
    this.#report = report;
  }

  look(now: number, lagMs: number): void {
    const { observer } = this.#world;
    for (const policy of observer.list<EgressPolicy>("policy", this.#namespaces)) {
      const key = keyOf(policy);
      const { namespace, name, uid } = policy.metadata;
      const stored = observer.get<Service>("service", `${namespace}/${childName.fleet(name)}`);
      // Garbage collection deletes the Service of a deleted policy of the same name.
      const service = stored?.metadata.ownerReferences?.some((owner) => owner.uid === uid) ? stored : undefined;
      const known = this.#fleets.get(key);
      const fresh = { uid: uid!, served: false, outageMs: 0, slots: new Map(), last: now };
      const fleet = known?.uid === uid ? known! : fresh;
      this.#fleets.set(key, fleet);
      // A policy in use is deleted only when its last pod is: until then its finalizer holds it.
      const leaving =
        policy.metadata.deletionTimestamp !== undefined && (policy.metadata.finalizers ?? []).length === 0;
      if (leaving || (service === undefined && !fleet.served)) continue;
      this.#lookAt(key, policy, service, fleet, now, lagMs);
    }
  }

  #lookAt(key: string, policy: EgressPolicy, service: Service | undefined, fleet: Fleet, now: number, lagMs: number) {
    const elapsed = Math.max(0, now - fleet.last - lagMs);
    fleet.last = now;
    const { observer, proxies } = this.#world;
    const pods = observer
      .list<Pod>("pod", [policy.metadata.namespace!])
      .filter((pod) => pod.metadata.labels?.[LABEL.fleet] === policy.metadata.name)
      .filter((pod) => observer.policyOf(pod) === policy.metadata.uid);
    const able = pods.filter((pod) => isReady(pod) && proxies.get(pod.metadata.uid!)?.open === true);
    const selector = (service?.spec as { selector?: Record<string, string> } | undefined)?.selector ?? {};
    const endpoints = service === undefined ? [] : able.filter((pod) => matches(pod, selector));
    for (const pod of endpoints) fleet.slots.set(pod.metadata.labels![LABEL.slot]!, now);
    if (endpoints.length > 0) {
      Object.assign(fleet, { served: true, outageMs: 0 });
      return;
    }
    if (!fleet.served) return;
    const several = [...fleet.slots].filter(([, at]) => now - fleet.outageMs - at < MEMORY_MS).map(([slot]) => slot);
    // The only slot restarts: its time counts from when it could serve again.
    const only = several.length <= 1 && !several.includes(SHARED);
    if (only && able.length === 0) return;
    // A new slot needs the node of an old one: the old one ends first.
    if (pods.some((pod) => isUnschedulable(pod) && !fleet.slots.has(pod.metadata.labels![LABEL.slot]!))) return;
    const before = fleet.outageMs;
    fleet.outageMs += elapsed;
    const limit = only ? SELECTED_MS : TOLERATED_MS;
    if (before > limit || fleet.outageMs <= limit) return;
    const state = pods.map(({ metadata: { name, labels, deletionTimestamp } }) => {
      const words = [
        deletionTimestamp ? "terminating" : "",
        able.some((pod) => pod.metadata.name === name) ? "able" : "",
      ];
      return [name, labels?.[LABEL.verified], labels?.[LABEL.phase], ...words].filter(Boolean).join(" ");
    });
    const served = `served by ${several.join(", ")} before`;
    this.#report({
      invariant: "I1",
      text: `${key}: no endpoint for more than ${limit} ms; ${served}; selector ${JSON.stringify(selector)}; pods: ${state.join("; ") || "none"}`,
    });
  }
}
