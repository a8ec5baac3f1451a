/**
 * The IANA special-purpose address registries, row by row, with their column "Globally Reachable"
 * (iana.org/assignments/iana-ipv4-special-registry and iana-ipv6-special-registry). `null`: not applicable there, which
 * this proxy treats as no. Written by hand, independently of the proxy's own table.
 */
export const IANA_IPV4: readonly [cidr: string, globallyReachable: boolean | null][] = [
  ["0.0.0.0/8", false],
  ["0.0.0.0/32", false],
  ["10.0.0.0/8", false],
  ["100.64.0.0/10", false],
  ["127.0.0.0/8", false],
  ["169.254.0.0/16", false],
  ["172.16.0.0/12", false],
  ["192.0.0.0/24", false],
  ["192.0.0.0/29", false],
  ["192.0.0.8/32", false],
  ["192.0.0.9/32", true],
  ["192.0.0.10/32", true],
  ["192.0.0.170/32", false],
  ["192.0.0.171/32", false],
  ["192.0.2.0/24", false],
  ["192.31.196.0/24", true],
  ["192.52.193.0/24", true],
  ["192.88.99.0/24", null],
  ["192.168.0.0/16", false],
  ["192.175.48.0/24", true],
  ["198.18.0.0/15", false],
  ["198.51.100.0/24", false],
  ["203.0.113.0/24", false],
  ["240.0.0.0/4", false],
  ["255.255.255.255/32", false],
  // Not in that registry, but no unicast either (RFC 5771).
  ["224.0.0.0/4", false],
  // Azure's host address: public by its number, but used for metadata.
  ["168.63.129.16/32", false],
];

/** The well-known NAT64 prefix is omitted: it is vetted as the IPv4 address that it embeds. */
export const IANA_IPV6: readonly [cidr: string, globallyReachable: boolean | null][] = [
  ["::1/128", false],
  ["::/128", false],
  ["::ffff:0:0/96", false],
  ["64:ff9b:1::/48", false],
  ["100::/64", false],
  ["100:0:0:1::/64", false],
  ["2001::/23", false],
  ["2001::/32", null],
  ["2001:1::1/128", true],
  ["2001:1::2/128", true],
  ["2001:1::3/128", true],
  ["2001:2::/48", false],
  ["2001:3::/32", true],
  ["2001:4:112::/48", true],
  ["2001:10::/28", null],
  ["2001:20::/28", true],
  ["2001:30::/28", true],
  ["2001:db8::/32", false],
  ["2002::/16", null],
  ["2620:4f:8000::/48", true],
  ["3fff::/20", false],
  ["5f00::/16", false],
  ["fc00::/7", false],
  ["fe80::/10", false],
  // Not in that registry: multicast (RFC 4291), site-local (RFC 3879), IPv4-compatible and -translated.
  ["ff00::/8", false],
  ["fec0::/10", false],
  ["::/96", false],
  ["::ffff:0:0:0/96", false],
];
