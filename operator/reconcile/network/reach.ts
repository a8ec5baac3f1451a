import { type Cidr, cidr, formatAddress, isInside, parseAddress, widen } from "../../../proxy/policy/cidr.ts";
import { DEFAULT_PORTS } from "../../../proxy/policy/document.ts";
import { type PortRange, type PortSpec, parsePorts } from "../../../proxy/policy/rules.ts";
import { GLOBALLY_REACHABLE, NEVER_OPENED, NOT_PUBLIC } from "../../../proxy/policy/special.ts";
import type { EgressPolicySpec } from "../../api/egresspolicy.ts";
import type { Block, Opening } from "../objects/networkpolicy.ts";
import { aggregate, overlaps } from "./cluster-ranges.ts";

/**
 * Limit of detail: shortest prefix length by family, and the number of port ranges above which all ports are allowed.
 */
export interface Grain {
  4: number;
  6: number;
  ports: number;
}

const ALL_PORTS: PortRange[] = [[1, 65_535]];
const EVERYWHERE = [cidr("0.0.0.0/0"), cidr("::/0")];
const MAPPED = cidr("::ffff:0:0/96");
const NAT64 = cidr("64:ff9b::/96");

function joinPorts(ports: readonly PortSpec[]): PortRange[] {
  const joined: PortRange[] = [];
  for (const [low, high] of ports.map((port) => parsePorts(port)!).sort((a, b) => a[0] - b[0])) {
    const last = joined.at(-1);
    if (last !== undefined && low <= last[1] + 1) joined[joined.length - 1] = [last[0], Math.max(last[1], high)];
    else joined.push([low, high]);
  }
  return joined;
}

/** NAT64 networks of IPv4 networks (RFC 6052). The policy engine vets such an address as the IPv4 address in it. */
function translated(networks: readonly Cidr[]): Cidr[] {
  return networks
    .filter(({ family }) => family === 4)
    .map(({ words, prefix }) => {
      const address = formatAddress({ family: 6, words: [0x64_ff9b, 0, 0, words[3]] });
      return cidr(`${address}/${prefix + 96}`);
    });
}

const withNat64 = (networks: readonly Cidr[]): Cidr[] => [...networks, ...translated(networks)];

/** Sockets send to an IPv4-mapped address as IPv4, and the API server rejects such a network. */
const onWire = (network: Cidr): boolean => !isInside(MAPPED, network);

const NEVER = withNat64(NEVER_OPENED).filter(onWire);

function blocksOf(open: readonly Cidr[], closed: readonly Cidr[]): Block[] {
  const without = aggregate(closed);
  return aggregate(open)
    .filter((network) => !without.some((one) => isInside(one, network)))
    .map((network) => ({
      cidr: network.text,
      except: without.filter((one) => isInside(network, one)).map(({ text }) => text),
    }));
}

/** Address families that the policy can use: with static IPs, those of the addresses that are not Pending. */
function familiesOf({ staticIPs = [] }: EgressPolicySpec): ReadonlySet<4 | 6> {
  if (staticIPs.length === 0) return new Set([4, 6]);
  const usable = staticIPs.filter(({ phase }) => phase !== "Pending");
  return new Set(usable.map(({ address }) => parseAddress(address)!.family));
}

function echoPort(text: string): PortSpec {
  const { port, protocol } = new URL(text);
  if (port !== "") return Number(port);
  return protocol === "https:" ? 443 : 80;
}

/** Ports on which proxies may connect to globally reachable addresses. */
function publicPorts({ mode, defaultAction, ports, allow = [], verification }: EgressPolicySpec): PortRange[] {
  // In mode Report, targets that the lists deny are allowed, on any port.
  if (mode === "Report") return ALL_PORTS;
  const own = ports ?? DEFAULT_PORTS;
  return joinPorts([
    ...(defaultAction === "Deny" ? [] : own),
    ...allow.filter(({ cidrs }) => cidrs === undefined).flatMap((rule) => rule.ports ?? own),
    ...(verification?.echoURLs ?? []).map(echoPort),
  ]);
}

/** Networks that allow rules open by `cidrs`, grouped by their ports. */
function openedBy({ allow = [], ports }: EgressPolicySpec): { networks: Cidr[]; ports: PortRange[] }[] {
  const byPorts = new Map<string, { networks: Cidr[]; ports: PortRange[] }>();
  for (const rule of allow) {
    if (rule.cidrs === undefined) continue;
    const ranges = joinPorts(rule.ports ?? ports ?? DEFAULT_PORTS);
    const group = byPorts.get(ranges.join()) ?? { networks: [], ports: ranges };
    group.networks.push(...rule.cidrs.map(cidr));
    byPorts.set(ranges.join(), group);
  }
  return [...byPorts.values()];
}

/**
 * Networks that the proxies of a policy may connect to, as the policy engine vets addresses: globally reachable ones
 * outside of the cluster's own ranges (`blocked`), and those that allow rules open. Hosts and deny rules are left to
 * the proxies. A `grain` gives a smaller and wider result, which still excludes addresses that are never allowed.
 */
export function reachOf(spec: EgressPolicySpec, blocked: readonly string[], grain?: Grain): Opening[] {
  const families = familiesOf(spec);
  const usable = (network: Cidr) => families.has(network.family) && onWire(network);
  const own = grain === undefined ? blocked.map(cidr) : [];
  const few = (ports: PortRange[]) => (grain !== undefined && ports.length > grain.ports ? ALL_PORTS : ports);

  const anywhere = few(publicPorts(spec));
  const closed = withNat64([...NOT_PUBLIC, ...own]).filter(onWire);
  const everywhere = [
    ...blocksOf(EVERYWHERE.filter(usable), closed),
    ...blocksOf(withNat64(GLOBALLY_REACHABLE).filter(usable), [...NEVER, ...withNat64(own)]),
  ];

  const notPublic = aggregate([...NOT_PUBLIC, ...own]);
  const known = ([low, high]: PortRange) => anywhere.some(([first, last]) => first <= low && high <= last);
  const groups = openedBy(spec).map(({ networks, ports }) => ({
    networks: ports.every(known) ? networks.filter((network) => overlaps(notPublic, network)) : networks,
    ports,
  }));
  const opened =
    grain === undefined
      ? groups
      : [
          {
            networks: groups
              .flatMap(({ networks }) => networks)
              .map((network) => widen(network, grain[network.family])),
            ports: few(joinPorts(groups.flatMap(({ ports }) => ports.map(([low, high]) => `${low}-${high}`)))),
          },
        ];
  return [
    { blocks: everywhere, ports: anywhere },
    ...opened.map(({ networks, ports }) => ({
      // An IPv6 network never opens the NAT64 network; only IPv4 networks do.
      blocks: [
        ...blocksOf(networks.filter(usable), [...NEVER, NAT64]),
        ...blocksOf(translated(networks).filter(usable), NEVER),
      ],
      ports,
    })),
  ].filter(({ blocks, ports }) => blocks.length > 0 && ports.length > 0);
}
