import type { EgressPolicy } from "../api/egresspolicy.ts";
import { LABEL, SERVING_PHASE } from "../api/names.ts";
import type { ProxyFacts } from "../fleet/proxy-status.ts";
import type { Slot } from "../fleet/slots.ts";
import type { KubeObject } from "../kube/resource.ts";

type Spec = EgressPolicy["spec"];

/** Where an address is, as far as can be told from inside. */
export interface Assignment {
  assigned: boolean;
  /** The node that has it. */
  node?: string;
}

/**
 * A NAT mechanism. It says what a fleet looks like, what has to be made besides it, and when an address is assigned.
 * No status of an object is evidence of an address: only what a proxy could bind or an echo server saw.
 */
export interface Provider {
  name: NonNullable<Spec["nat"]>["provider"];
  /** One single-replica Deployment for each address; else one Deployment of N. */
  slots: boolean;
  /** Proxies use the node's network and bind their sockets to the slot's address. */
  hostNetwork: boolean;
  /** An address belongs to one policy alone, and to whom a grant gives it. */
  exclusive: boolean;
  /**
   * The client Service selects proven pods by label, and readiness tells of the policy alone: the address comes only to
   * pods that are ready, so that a readiness which waits for it would wait for ever.
   */
  gated: boolean;
  /** Addresses are on nodes already: a slot goes to the node that has its address, and follows it. */
  pinned: boolean;
  /** What pods carry so that they get an address. */
  podAnnotations(spec: Spec): Record<string, string>;
  /** What a slot needs besides its Deployment. */
  slotObjects(policy: EgressPolicy, spec: Spec, slot: Slot): KubeObject[];
  /** `source` is what is bound for the address. */
  assignment(address: string, source: string, proxies: readonly ProxyFacts[]): Assignment;
}

/**
 * The labels by which the client Service tells proxies that get new requests from others of the fleet. Where readiness
 * waits for the address and its proof, only slots on their way out are to be told apart.
 */
export function servingLabels({ slots, gated }: Pick<Provider, "slots" | "gated">): Record<string, string> {
  if (gated) return { [LABEL.verified]: "true" };
  return slots ? { [LABEL.phase]: SERVING_PHASE } : {};
}
