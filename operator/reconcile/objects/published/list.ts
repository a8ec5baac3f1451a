import { parseAddress } from "../../../../proxy/policy/cidr.ts";

/** The published list: content of `ips.json`, whose schema is docs/ips.schema.json. */

/** States of an address. An address that is `Removed` is no longer in the list. */
export const ADDRESS_STATES = ["Pending", "Active", "Retiring", "Removed"] as const;
/** State of a published address. */
export type AddressState = (typeof ADDRESS_STATES)[number];

/** A change of the state of an address. */
export interface AddressChange {
  address: string;
  /** The new state. */
  state: AddressState;
  /** RFC 3339; time of the change. */
  since: string;
}

/** Limit of changes in a list. */
export const MAX_CHANGES = 50;

/** Content of `ips.json`. */
export interface PublishedList {
  ipv4: string[];
  ipv6: string[];
  /** The same addresses as networks. */
  cidrs: string[];
  /** Addresses that are announced and not used yet. */
  pending: string[];
  /** Addresses that are still used and will be removed. */
  retiring: string[];
  /** RFC 3339; time of the last change. Empty in a stored list without a valid time. */
  updatedAt: string;
  /** The last changes, newest first. */
  changes: AddressChange[];
}

/** Addresses for the allow lists of webhook receivers. */
export interface PublishedIPs {
  /** Active, pending and retiring addresses: receivers have to accept all of them. */
  all: string[];
  json: PublishedList;
}

/** State of each address of a list. */
export function statesOf(
  list: Pick<PublishedList, "ipv4" | "ipv6" | "pending" | "retiring">,
): Map<string, AddressState> {
  const states = new Map<string, AddressState>([...list.ipv4, ...list.ipv6].map((address) => [address, "Active"]));
  for (const address of list.pending) states.set(address, "Pending");
  for (const address of list.retiring) states.set(address, "Retiring");
  return states;
}

/** Text of a published list in its ConfigMap and in the record. */
export function textOfPublished(list: PublishedList): string {
  return `${JSON.stringify(list)}\n`;
}

const isAddress = (value: unknown): value is string => typeof value === "string" && parseAddress(value) !== null;
const areAddresses = (value: unknown): value is string[] => Array.isArray(value) && value.every(isAddress);
const isTime = (value: unknown): value is string =>
  typeof value === "string" && /^\d{4}-\d\d-\d\dT[\d:.]{8,12}Z$/.test(value) && !Number.isNaN(Date.parse(value));

function isChange(value: unknown): value is AddressChange {
  const { address, state, since } = (value ?? {}) as Partial<AddressChange>;
  return isAddress(address) && ADDRESS_STATES.includes(state!) && isTime(since);
}

/**
 * Reads a published list; undefined if it is not valid. A list of an older operator has no changes. Changes that are not
 * valid are dropped.
 */
export function parsePublished(text: string): PublishedList | undefined {
  let list: Partial<PublishedList> | null;
  try {
    list = JSON.parse(text);
  } catch {
    return undefined;
  }
  const { ipv4, ipv6, cidrs, pending, retiring, updatedAt, changes } = list ?? {};
  if (!areAddresses(ipv4) || !areAddresses(ipv6) || !areAddresses(pending) || !areAddresses(retiring)) return undefined;
  return {
    ...{ ipv4, ipv6, cidrs: cidrs ?? [], pending, retiring, updatedAt: isTime(updatedAt) ? updatedAt : "" },
    changes: Array.isArray(changes) ? changes.filter(isChange).slice(0, MAX_CHANGES) : [],
  };
}
