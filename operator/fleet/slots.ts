import { createHash } from "node:crypto";
import { formatAddress, parseAddress } from "../../proxy/policy/cidr.ts";
import type { EgressPolicy } from "../api/egresspolicy.ts";

/** The slot label of a fleet that is one Deployment: never six hex digits. */
export const SHARED = "shared";

/** One static IP with a proxy of its own. */
export interface Slot {
  /** Six hex digits of the address's SHA-256: other addresses coming or going do not rename it. */
  id: string;
  /** What the world sees. */
  address: string;
  /** What is bound. */
  source: string;
  /** Retiring: its proxy serves what is open, and gets nothing new. */
  retiring: boolean;
}

/** An address in its one spelling; the schema let nothing else through. */
export function canonical(text: string): string {
  const address = parseAddress(text);
  return address === null ? text : formatAddress(address);
}

/** Names the slot of an address. */
export function slotId(address: string): string {
  return createHash("sha256").update(canonical(address)).digest("hex").slice(0, 6);
}

/** The slots of a spec. A Pending address is published, and has none yet. */
export function slotsOf(spec: EgressPolicy["spec"]): Slot[] {
  return (spec.staticIPs ?? [])
    .filter(({ phase }) => phase !== "Pending")
    .map(({ address, sourceAddress, phase }) => ({
      id: slotId(address),
      address: canonical(address),
      source: canonical(sourceAddress ?? address),
      retiring: phase === "Retiring",
    }));
}

/** The addresses that a spec uses, canonical: all but Pending ones. */
export function usedAddresses(spec: EgressPolicy["spec"]): string[] {
  return slotsOf(spec).map(({ address }) => address);
}

/** The slots, by id, that are to stay: all but retiring ones. */
export function lastingSlots(spec: EgressPolicy["spec"]): ReadonlySet<string> {
  return new Set(slotsOf(spec).flatMap(({ id, retiring }) => (retiring ? [] : [id])));
}
