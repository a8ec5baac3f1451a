import type { EgressPolicy, EgressPolicySpec } from "../api/egresspolicy.ts";
import { LABEL, SERVING_PHASE } from "../api/names.ts";
import type { ProxyFacts } from "../fleet/proxy-status.ts";
import { SHARED, type Slot } from "../fleet/slots.ts";
import type { KubeObject } from "../kube/resource.ts";

/** Location of an address, as far as the cluster knows it. */
export interface Assignment {
  assigned: boolean;
  /** Node that has the address. */
  node?: string;
}

/**
 * Shape of a fleet.
 *
 * `Deployment`: one Deployment for all addresses, on the pod network. `address` is `outside` where something outside of
 * the cluster translates addresses, and `of-pod` where each pod has a static IP of its own.
 *
 * `Slots`: one single-replica Deployment for each address, on the network of its node, with sockets that are bound to
 * the address. An address belongs to one policy alone and needs a grant. `address` is `on-node` where nodes have the
 * addresses and a slot has to run on the right one, and `follows-ready-pod` where the address moves to the node of a
 * ready pod. In the latter case readiness must not wait for the address.
 */
export type FleetShape =
  | { kind: "Deployment"; address: "outside" | "of-pod" }
  | { kind: "Slots"; address: "on-node" | "follows-ready-pod" };

/**
 * NAT mechanism: the shape of its fleets, the objects that it needs, and the evidence that an address is assigned.
 * The status of an object is no evidence. Only an address that a proxy bound or an echo server saw counts.
 */
export interface Provider {
  name: EgressPolicySpec["nat"]["provider"];
  shape: FleetShape;
  /** Annotations that pods need to get an address. */
  podAnnotations(spec: EgressPolicySpec): Record<string, string>;
  /** Objects that a slot needs besides its Deployment. */
  slotObjects(policy: EgressPolicy, spec: EgressPolicySpec, slot: Slot): KubeObject[];
  /** `source`: the address that the proxy binds for the static IP `address`. */
  assignment(address: string, source: string, proxies: readonly ProxyFacts[]): Assignment;
}

/** Whether slots wait for the node that has their address, and follow the address to another node. */
export function isOnNode(shape: FleetShape): boolean {
  return shape.kind === "Slots" && shape.address === "on-node";
}

/**
 * Labels by which the client Service selects the proxies that get new requests, besides the label of the fleet. Where
 * readiness waits for the proof of the address, the Service only has to exclude other proxies: those of slots, or those
 * of retiring slots.
 */
export function servingLabels(shape: FleetShape): Record<string, string> {
  switch (shape.kind) {
    case "Deployment":
      return { [LABEL.slot]: SHARED };
    case "Slots":
      switch (shape.address) {
        case "on-node":
          return { [LABEL.phase]: SERVING_PHASE };
        case "follows-ready-pod":
          return { [LABEL.verified]: "true" };
      }
  }
}
