import { createHash } from "node:crypto";
import { formatAddress, parseAddress } from "../../proxy/policy/cidr.ts";
import type { EgressPolicySpec } from "../api/egresspolicy.ts";
import type { Pod } from "../api/objects.ts";

/**
 * Value of the slot label where one Deployment has all addresses. An id of a slot is six hex digits, so it never equals
 * this.
 */
export const SHARED = "shared";

/** One static IP with a proxy of its own. */
export interface Slot {
  /** First six hex digits of the SHA-256 of the address, so that other addresses do not rename the slot. */
  id: string;
  /** The static IP, as receivers see it. */
  address: string;
  /** The address that the proxy binds. */
  source: string;
  /** The proxy finishes open tunnels and gets no new requests. */
  retiring: boolean;
}

/** Canonical form of an address. A text that is no address is returned as it is; the CRD schema rejects those. */
export function canonicalAddress(text: string): string {
  const address = parseAddress(text);
  return address === null ? text : formatAddress(address);
}

/** Id of the slot of an address. */
export function slotId(address: string): string {
  return createHash("sha256").update(canonicalAddress(address)).digest("hex").slice(0, 6);
}

/** Slots of a spec. A Pending address is published and has no slot yet. */
export function slotsOf(spec: EgressPolicySpec): Slot[] {
  return (spec.staticIPs ?? [])
    .filter(({ phase }) => phase !== "Pending")
    .map(({ address, sourceAddress, phase }) => ({
      id: slotId(address),
      address: canonicalAddress(address),
      source: canonicalAddress(sourceAddress ?? address),
      retiring: phase === "Retiring",
    }));
}

/** Canonical addresses that a spec uses: all except Pending ones. */
export function usedAddresses(spec: EgressPolicySpec): string[] {
  return slotsOf(spec).map(({ address }) => address);
}

/** Ids of the slots that are not retiring. */
export function lastingSlots(slots: readonly Slot[]): ReadonlySet<string> {
  return new Set(slots.flatMap(({ id, retiring }) => (retiring ? [] : [id])));
}

const SOURCE_OPTION = "--source-address=";

/** Canonical address that the proxy of a pod binds, from its arguments; undefined if it binds none. */
export function boundSource({ spec }: Pod): string | undefined {
  const args = (spec?.containers ?? []).flatMap((container) => container.args ?? []);
  const source = args.find((arg) => arg.startsWith(SOURCE_OPTION));
  return source === undefined ? undefined : canonicalAddress(source.slice(SOURCE_OPTION.length));
}
