/**
 * Every address of a test cluster, in one place. Clusters are isolated from each other, so all use the same addresses.
 */

/** One IP family of the network, with its notation and its networks. */
export interface Family {
  /** Of nft. */
  table: "ip" | "ip6";
  bits: 32 | 128;
  /** Of nodes and pods: the gateway translates these. */
  private: string;
  /** The segment of the nodes: addresses of the gateway and of the nodes. */
  nodes: string;
  inside: string;
  node(index: number): string;
  prefix: 24 | 64;
  /** Between the gateway and the "internet". */
  outside: string;
  farSide: string;
  between: string;
  /**
   * Hosts of the "internet". Public according to the registries of special-purpose addresses, and reachable only here.
   */
  hosts: string;
  receiver: string;
  echo: string;
  /** Addresses to which the gateway may translate. */
  staticIPs: readonly [string, string];
  pods: string;
  podCIDR(index: number): string;
  services: string;
}

export const FOUR: Family = {
  table: "ip",
  bits: 32,
  private: "10.0.0.0/8",
  nodes: "10.0.0.0/24",
  inside: "10.0.0.1",
  node: (index) => `10.0.0.${index + 2}`,
  prefix: 24,
  outside: "203.0.113.1",
  farSide: "203.0.113.2",
  between: "203.0.113.0/24",
  hosts: "11.0.0.0/24",
  receiver: "11.0.0.10",
  echo: "11.0.0.20",
  staticIPs: ["203.0.113.10", "203.0.113.11"],
  pods: "10.244.0.0/16",
  podCIDR: (index) => `10.244.${index}.0/24`,
  services: "10.96.0.0/16",
};

export const SIX: Family = {
  table: "ip6",
  bits: 128,
  private: "fd00::/8",
  nodes: "fd00:10::/64",
  inside: "fd00:10::1",
  node: (index) => `fd00:10::${index + 2}`,
  prefix: 64,
  outside: "2001:db8:113::1",
  farSide: "2001:db8:113::2",
  between: "2001:db8:113::/64",
  hosts: "2a00:11::/64",
  receiver: "2a00:11::10",
  echo: "2a00:11::20",
  staticIPs: ["2001:db8:113::10", "2001:db8:113::11"],
  pods: "fd00:244::/48",
  podCIDR: (index) => `fd00:244:0:${index}::/64`,
  services: "fd00:96::/112",
};

export const FAMILIES = [FOUR, SIX] as const;

/** The DNS server, by IPv4. */
export const DNS_HOST = "11.0.0.53";
export const STATIC_IPS = FOUR.staticIPs;
/** Addresses for the nodes themselves: routed to their segment, and never translated. */
export const NODE_IPS = ["203.0.113.17", "203.0.113.18"] as const;
export const NODE_IPS_RANGE = "203.0.113.16/28";
