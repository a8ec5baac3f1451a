import { type Address, type Cidr, cidr, contains, isInside as inside, parseAddress, v4 } from "./cidr.ts";

/** A range with the words that a sender reads about it. */
export interface AddressClass {
  readonly network: Cidr;
  readonly name: string;
}

const table = (rows: readonly (readonly [string, string])[]): AddressClass[] =>
  rows.map(([network, name]) => ({ network: cidr(network), name }));

/**
 * Ranges that no rule opens. Metadata addresses of the clouds, link-local, unspecified, multicast, broadcast.
 * Sources: AWS IMDS (v4 and fd00:ec2::254), Alibaba 100.100.100.200, Oracle 192.0.0.192, Azure 168.63.129.16,
 * Google fd20:ce::254.
 */
const NEVER_ALLOWED = table([
  ["169.254.169.254/32", "cloud metadata"],
  ["fd00:ec2::254/128", "cloud metadata"],
  ["fd20:ce::254/128", "cloud metadata"],
  ["100.100.100.200/32", "cloud metadata"],
  ["192.0.0.192/32", "cloud metadata"],
  ["168.63.129.16/32", "cloud metadata"],
  ["169.254.0.0/16", "link-local"],
  ["fe80::/10", "link-local"],
  ["0.0.0.0/32", "unspecified"],
  ["::/128", "unspecified"],
  ["224.0.0.0/4", "multicast"],
  ["ff00::/8", "multicast"],
  ["255.255.255.255/32", "broadcast"],
]);

/** Opened by `--allow-cidr` only: no policy document can. */
const LOOPBACK = table([
  ["127.0.0.0/8", "loopback"],
  ["::1/128", "loopback"],
]);

/**
 * The rows of the IANA IPv4 and IPv6 special-purpose address registries (RFC 6890, RFC 8190) that are not marked
 * globally reachable, and what operators block besides: 6to4 and its relay anycast (RFC 7526), site-local (RFC 3879).
 */
const SPECIAL_PURPOSE = table([
  ["0.0.0.0/8", "this network"],
  ["10.0.0.0/8", "private"],
  ["100.64.0.0/10", "shared address space (CGNAT)"],
  ["172.16.0.0/12", "private"],
  ["192.0.0.0/24", "IETF protocol assignments"],
  ["192.0.2.0/24", "documentation"],
  ["192.88.99.0/24", "6to4 relay anycast"],
  ["192.168.0.0/16", "private"],
  ["198.18.0.0/15", "benchmarking"],
  ["198.51.100.0/24", "documentation"],
  ["203.0.113.0/24", "documentation"],
  ["240.0.0.0/4", "reserved"],
  ["::/96", "IPv4-compatible"],
  ["::ffff:0:0/96", "IPv4-mapped"],
  ["::ffff:0:0:0/96", "IPv4-translated"],
  ["64:ff9b:1::/48", "local-use NAT64"],
  ["100::/64", "discard-only"],
  ["100:0:0:1::/64", "dummy prefix"],
  ["2001::/23", "IETF protocol assignments"],
  ["2001:db8::/32", "documentation"],
  ["2002::/16", "6to4"],
  ["3fff::/20", "documentation"],
  ["5f00::/16", "segment routing"],
  ["fc00::/7", "unique local"],
  ["fec0::/10", "site-local"],
]);

/** The globally reachable rows inside of those ranges: more specific, so they win. */
export const GLOBALLY_REACHABLE: readonly Cidr[] = [
  "192.0.0.9/32",
  "192.0.0.10/32",
  "2001:1::1/128",
  "2001:1::2/128",
  "2001:1::3/128",
  "2001:3::/32",
  "2001:4:112::/48",
  "2001:20::/28",
  "2001:30::/28",
].map(cidr);

/** What no policy document opens: {@link neverAllowed} as networks. */
export const NEVER_OPENED: readonly Cidr[] = [...NEVER_ALLOWED, ...LOOPBACK].map(({ network }) => network);

/** What takes a rule to be reached, and {@link NEVER_OPENED}; {@link GLOBALLY_REACHABLE} inside of it takes none. */
export const NOT_PUBLIC: readonly Cidr[] = [...NEVER_OPENED, ...SPECIAL_PURPOSE.map(({ network }) => network)];

const find = (classes: readonly AddressClass[], address: Address): AddressClass | undefined =>
  classes.find((c) => contains(c.network, address));

/** The never-allowed range that the address lies in; loopback counts, `--allow-cidr` is the caller's to ask. */
export function neverAllowed(address: Address): AddressClass | undefined {
  return find(NEVER_ALLOWED, address) ?? find(LOOPBACK, address);
}

/** Whether `--allow-cidr` may open this never-allowed class. */
export function isLoopback(klass: AddressClass): boolean {
  return LOOPBACK.includes(klass);
}

/** The special-purpose range that the address itself lies in (embedded addresses: see {@link forms}). */
export function specialPurpose(address: Address): AddressClass | undefined {
  const klass = find(SPECIAL_PURPOSE, address);
  if (klass === undefined || GLOBALLY_REACHABLE.some((n) => contains(n, address))) return undefined;
  return klass;
}

/** Whether a network has special-purpose and never-allowed addresses only, so that naming it blocks nothing more. */
export function isSpecialNetwork(network: Cidr): boolean {
  if (GLOBALLY_REACHABLE.some((open) => inside(network, open) || inside(open, network))) return false;
  return NOT_PUBLIC.some((closed) => inside(closed, network));
}

/** Whether a network has any special-purpose or never-allowed address. */
export function touchesSpecial(network: Cidr): boolean {
  return NOT_PUBLIC.some((closed) => inside(closed, network) || inside(network, closed));
}

const MAPPED = cidr("::ffff:0:0/96");
const COMPATIBLE = cidr("::/96");
const TRANSLATED = cidr("::ffff:0:0:0/96");
const NAT64 = cidr("64:ff9b::/96");
const LOCAL_NAT64 = cidr("64:ff9b:1::/48");
const SIX_TO_FOUR = cidr("2002::/16");
const TEREDO = cidr("2001::/32");

/**
 * The addresses as which one address is vetted: itself and every IPv4 address that it embeds, since a translator or
 * tunnel on the path sends the packet there. The well-known NAT64 prefix (RFC 6052) stands for its IPv4 address alone.
 * Layouts: RFC 4291 (mapped, compatible), RFC 2765 (translated), RFC 6052 §2.2, RFC 3056, RFC 4380, RFC 5214.
 */
export function forms(address: Address): readonly Address[] {
  if (address.family === 4) return [address];
  const [a, b, c, d] = address.words;
  if (contains(NAT64, address)) return [v4(d)];
  // One address can embed in two layouts at once (6to4 with an ISATAP interface identifier): all of them count.
  const found: Address[] = [address];
  if (contains(MAPPED, address) || contains(TRANSLATED, address)) found.push(v4(d));
  if (contains(COMPATIBLE, address) && d > 1) found.push(v4(d));
  if (contains(LOCAL_NAT64, address)) {
    const suffixIsZero = (c & 0xff) === 0 && d === 0;
    found.push(v4(suffixIsZero ? ((b & 0xffff) << 16) | ((c >>> 8) & 0xffff) : d));
  }
  if (contains(SIX_TO_FOUR, address)) found.push(v4(((a & 0xffff) << 16) | (b >>> 16)));
  if (contains(TEREDO, address)) found.push(v4(b), v4(~d));
  if ((c & 0xfdffffff) >>> 0 === 0x00005efe) found.push(v4(d));
  return found;
}

/** The class of an address that no policy would reach by itself, in words; null for a globally reachable one. */
export function specialClass(text: string): string | null {
  const address = parseAddress(text);
  if (address === null) throw new TypeError(`not an IP address: ${text}`);
  for (const form of [address, ...forms(address)]) {
    const never = neverAllowed(form);
    if (never !== undefined) return never.name;
  }
  for (const form of forms(address)) {
    const special = specialPurpose(form);
    if (special !== undefined) return special.name;
  }
  return null;
}
