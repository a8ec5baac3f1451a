import {
  type Address,
  type Cidr,
  CidrSet,
  cidr,
  contains,
  isInside as inside,
  parseAddress,
  parseCidr,
  v4,
} from "./cidr.ts";

/** A range with its description for senders. */
export interface AddressClass {
  readonly network: Cidr;
  readonly name: string;
}

/** A class as a part of a reason: `a private address (10.0.0.0/8)`. */
export function describeClass({ name, network }: AddressClass): string {
  const article = /^(?!uniq)[aeiou]/i.test(name) ? "an" : "a";
  return `${article} ${name} address (${network.text})`;
}

const table = (rows: readonly (readonly [string, string])[]): AddressClass[] =>
  rows.map(([network, name]) => ({ network: cidr(network), name }));

/**
 * Ranges that no rule opens: metadata addresses of the clouds, link-local, unspecified, multicast, broadcast.
 * Sources of the metadata addresses that are not link-local: AWS (`fd00:ec2::/32` has the metadata service `::254`, the EKS
 * Pod Identity Agent `::23`, DNS `::253` and time `::123`), Google Cloud `fd20:ce::254`, Oracle Cloud `fd00:c1::a9fe:a9fe`
 * and 192.0.0.192, Alibaba Cloud `fd00:100::100:200` and 100.100.100.200, Scaleway `fd00:42::42`, Akamai
 * `fd00:a9fe:a9fe::1`, Azure 168.63.129.16 (documentation of the clouds, and data sources of cloud-init). DigitalOcean,
 * Hetzner, OpenStack, Scaleway and Tencent Cloud use link-local addresses such as `fe80::a9fe:a9fe`.
 */
const NEVER_ALLOWED = table([
  ["169.254.169.254/32", "cloud metadata"],
  ["fd00:ec2::/32", "cloud metadata"],
  ["fd20:ce::254/128", "cloud metadata"],
  ["fd00:c1::a9fe:a9fe/128", "cloud metadata"],
  ["fd00:100::100:200/128", "cloud metadata"],
  ["fd00:42::42/128", "cloud metadata"],
  ["fd00:a9fe:a9fe::1/128", "cloud metadata"],
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

/** Only `--allow-cidr` opens this range; no policy document can. */
const LOOPBACK = table([
  ["127.0.0.0/8", "loopback"],
  ["::1/128", "loopback"],
]);

/**
 * The rows of the IANA IPv4 and IPv6 special-purpose address registries (RFC 6890, RFC 8190) that are not marked
 * globally reachable, and further ranges that network operators block: 6to4 and its relay anycast (RFC 7526),
 * site-local (RFC 3879).
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

/** The globally reachable rows inside those ranges: they are more specific, so they win. */
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

/** Ranges that no policy document opens: {@link neverAllowed} as networks. */
export const NEVER_OPENED: readonly Cidr[] = [...NEVER_ALLOWED, ...LOOPBACK].map(({ network }) => network);

/** Ranges that need a rule, and {@link NEVER_OPENED}; {@link GLOBALLY_REACHABLE} ranges inside them need none. */
export const NOT_PUBLIC: readonly Cidr[] = [...NEVER_OPENED, ...SPECIAL_PURPOSE.map(({ network }) => network)];

/** The ranges of whole tables: most addresses are in none of them, and one search finds this out. */
const ANY_NEVER_OPENED = new CidrSet(NEVER_OPENED);
const ANY_SPECIAL_PURPOSE = new CidrSet(SPECIAL_PURPOSE.map(({ network }) => network));

const find = (classes: readonly AddressClass[], address: Address): AddressClass | undefined =>
  classes.find((c) => contains(c.network, address));

/** The never-allowed range of an address. Loopback is included: the caller must check `--allow-cidr`. */
export function neverAllowed(address: Address): AddressClass | undefined {
  if (!ANY_NEVER_OPENED.has(address)) return undefined;
  return find(NEVER_ALLOWED, address) ?? find(LOOPBACK, address);
}

/** Whether an address is a loopback address itself (embedded addresses: see {@link forms}). */
export function isLoopbackAddress(address: Address): boolean {
  return find(LOOPBACK, address) !== undefined;
}

/** Whether `--allow-cidr` may open this never-allowed class. */
export function isLoopback(klass: AddressClass): boolean {
  return LOOPBACK.includes(klass);
}

/** The special-purpose range of the address itself (embedded addresses: see {@link forms}). */
export function specialPurpose(address: Address): AddressClass | undefined {
  if (!ANY_SPECIAL_PURPOSE.has(address)) return undefined;
  const klass = find(SPECIAL_PURPOSE, address);
  if (klass === undefined || GLOBALLY_REACHABLE.some((n) => contains(n, address))) return undefined;
  return klass;
}

/** Whether a network has only special-purpose and never-allowed addresses, so that blocking it blocks nothing else. */
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

/** IPv6 networks whose addresses embed IPv4 addresses: see {@link forms}. ISATAP addresses are in every network. */
export const EMBEDDING = { MAPPED, COMPATIBLE, TRANSLATED, NAT64, LOCAL_NAT64, SIX_TO_FOUR, TEREDO } as const;

/** Prefix lengths of RFC 6052 §2.2. */
const NAT64_LENGTHS: readonly number[] = [32, 40, 48, 56, 64, 96];

/** Reads the prefix of a NAT64 translator. */
export function parseNat64Prefix(text: string): Cidr | { error: string } {
  const network = parseCidr(text);
  if ("error" in network) return network;
  if (network.family === 6 && NAT64_LENGTHS.includes(network.prefix)) return network;
  return {
    error: `"${text}" is not a NAT64 prefix: it must be IPv6, with a prefix length of ${NAT64_LENGTHS.join(", ")}`,
  };
}

/**
 * The IPv4 address that a prefix of this length embeds (RFC 6052 §2.2): after the prefix, without bits 64 to 71.
 * Translators ignore these bits and all bits after the IPv4 address (§2.3), so they must not be compared here.
 */
function embedded({ words: [, b, c, d] }: Address, prefix: number): Address {
  switch (prefix) {
    case 32:
      return v4(b);
    case 40:
      return v4((b << 8) | ((c >>> 16) & 0xff));
    case 48:
      return v4((b << 16) | ((c >>> 8) & 0xffff));
    case 56:
      return v4((b << 24) | (c & 0xffffff));
    case 64:
      return v4((c << 8) | (d >>> 24));
    default:
      return v4(d);
  }
}

/** Layouts that fit into 64:ff9b:1::/48, which is for translators of any prefix length (RFC 8215). */
const LOCAL_NAT64_LENGTHS = [48, 56, 64, 96];
const THIS_NETWORK = cidr("0.0.0.0/8");

/**
 * Every IPv4 address that any layout embeds in an address of 64:ff9b:1::/48: the length in use is unknown. Results in
 * 0.0.0.0/8 do not count when there is another one: they are the zeros around the real address, and no router forwards
 * them.
 */
function localEmbedded(address: Address): Address[] {
  const readings = LOCAL_NAT64_LENGTHS.map((prefix) => embedded(address, prefix));
  const real = readings.filter((reading) => !contains(THIS_NETWORK, reading));
  return real.length > 0 ? real : readings.slice(-1);
}

/** Whether the third word of an IPv6 address begins an ISATAP interface identifier (RFC 5214 §6.1). */
export const isIsatap = (word: number): boolean => (word & 0xfdffffff) >>> 0 === 0x00005efe;

/**
 * The addresses as which one address is vetted: itself and every IPv4 address that it embeds, since a translator or
 * tunnel on the path sends the packet there. For an address of the well-known NAT64 prefix (RFC 6052), or of a prefix
 * in `nat64`, only its IPv4 address is vetted. Layouts: RFC 4291 (compatible; mapped addresses are already IPv4 here),
 * RFC 2765 (translated), RFC 6052 §2.2, RFC 3056, RFC 4380, RFC 5214.
 */
export function forms(address: Address, nat64: readonly Cidr[] = []): readonly Address[] {
  if (address.family === 4) return [address];
  const [a, b, c, d] = address.words;
  if (contains(NAT64, address)) return [v4(d)];
  const translated = nat64.filter((network) => contains(network, address));
  if (translated.length > 0) return translated.map(({ prefix }) => embedded(address, prefix));
  // One address can match two layouts (6to4 with an ISATAP interface identifier): all of them count.
  const found: Address[] = [address];
  if (contains(MAPPED, address) || contains(TRANSLATED, address)) found.push(v4(d));
  if (contains(COMPATIBLE, address) && d > 1) found.push(v4(d));
  if (contains(LOCAL_NAT64, address)) found.push(...localEmbedded(address));
  if (contains(SIX_TO_FOUR, address)) found.push(v4(((a & 0xffff) << 16) | (b >>> 16)));
  if (contains(TEREDO, address)) found.push(v4(b), v4(~d));
  if (isIsatap(c)) found.push(v4(d));
  return found;
}

/** The name of the address class that no policy reaches by itself; null for a globally reachable address. */
export function specialClass(text: string, nat64: readonly Cidr[] = []): string | null {
  const address = parseAddress(text);
  if (address === null) throw new TypeError(`not an IP address: ${text}`);
  const shapes = forms(address, nat64);
  for (const form of [address, ...shapes]) {
    const never = neverAllowed(form);
    if (never !== undefined) return never.name;
  }
  for (const form of shapes) {
    const special = specialPurpose(form);
    if (special !== undefined) return special.name;
  }
  return null;
}
