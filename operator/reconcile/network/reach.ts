import { type Cidr, cidr, formatAddress, isInside, parseAddress, single, widen } from "../../../proxy/policy/cidr.ts";
import { DEFAULT_PORTS } from "../../../proxy/policy/document.ts";
import { type PortRange, type PortSpec, parsePorts } from "../../../proxy/policy/rules.ts";
import { GLOBALLY_REACHABLE, NEVER_OPENED, NOT_PUBLIC } from "../../../proxy/policy/special.ts";
import { hopTarget } from "../../../proxy/policy/upstream-proxy.ts";
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

/**
 * Address families that the policy can use: with static IPs, those of the addresses that are not Pending. Static IPs behind
 * an upstream proxy say nothing about the way to it.
 */
function familiesOf({ staticIPs = [], upstreamProxy }: EgressPolicySpec): ReadonlySet<4 | 6> {
  if (staticIPs.length === 0 || upstreamProxy !== undefined) return new Set([4, 6]);
  const usable = staticIPs.filter(({ phase }) => phase !== "Pending");
  return new Set(usable.map(({ address }) => parseAddress(address)!.family));
}

function echoPort(text: string): PortSpec {
  const { port, protocol } = new URL(text);
  if (port !== "") return Number(port);
  return protocol === "https:" ? 443 : 80;
}

/** Targets that one client, or every client of a policy without clients, may reach by its lists. */
interface View {
  /** The allow side reports: targets that the lists do not allow are allowed, on any port. */
  reports: boolean;
  allow: { cidrs?: string[]; ports: readonly PortSpec[] }[];
  /** Ports of the default action; none if it denies. */
  fallback: readonly PortSpec[];
}

/** The views of a spec, as the policy engine compiles them. With clients, the policy itself decides no request. */
function viewsOf({ mode, defaultAction, ports = [...DEFAULT_PORTS], allow = [], clients }: EgressPolicySpec): View[] {
  const withPorts = (rules: NonNullable<EgressPolicySpec["allow"]>, own: readonly PortSpec[]): View["allow"] =>
    rules.map((rule) => ({ ...(rule.cidrs && { cidrs: rule.cidrs }), ports: rule.ports ?? own }));
  const shared = withPorts(allow, ports);
  const fallbackOf = (action: string, own: readonly PortSpec[]) => (action === "Deny" ? [] : own);
  if (clients === undefined) {
    return [{ reports: mode === "Report", allow: shared, fallback: fallbackOf(defaultAction, ports) }];
  }
  return clients.map((client): View => {
    const own = client.ports ?? ports;
    const action = client.defaultAction ?? (client.allow === undefined ? defaultAction : "Deny");
    const inherits = client.allow === undefined || client.inheritAllow === true;
    return {
      reports: (client.mode ?? mode) === "Report" && (client.allow !== undefined || mode === "Report"),
      allow: [...withPorts(client.allow ?? [], own), ...(inherits ? shared : [])],
      fallback: fallbackOf(action, own),
    };
  });
}

/**
 * What the proxies connect to themselves: the targets, or the upstream proxy that leads to them, and upstream proxies that
 * requests name. An address of an upstream proxy is opened exactly, a host name on its port.
 */
function directOf(spec: EgressPolicySpec): View[] {
  const only = (allow: View["allow"]): View => ({ reports: false, allow, fallback: [] });
  const named = (spec.clients ?? []).flatMap(({ upstreamProxies = [] }) =>
    upstreamProxies.map(({ cidrs, ports = ["1-65535"] }) => ({ ...(cidrs && { cidrs }), ports })),
  );
  if (spec.upstreamProxy === undefined) return [...viewsOf(spec), only(named)];
  const { ip, host, port } = hopTarget(spec.upstreamProxy);
  return [only([...named, { ...(ip && { cidrs: [single(parseAddress(host)!).text] }), ports: [port] }])];
}

/** The rules of all views, each once. Views share those of the policy: 256 clients that inherit 256 rules have 65,536. */
const rulesOf = (views: readonly View[]): Set<View["allow"][number]> => new Set(views.flatMap(({ allow }) => allow));

/** Ports on which proxies may connect to globally reachable addresses. */
function publicPorts(views: readonly View[], { verification, upstreamProxy }: EgressPolicySpec): PortRange[] {
  const echoURLs = upstreamProxy === undefined ? (verification?.echoURLs ?? []) : [];
  if (views.some(({ reports }) => reports)) return ALL_PORTS;
  return joinPorts([
    ...views.flatMap(({ fallback }) => fallback),
    ...[...rulesOf(views)].filter(({ cidrs }) => cidrs === undefined).flatMap(({ ports }) => ports),
    ...echoURLs.map(echoPort),
  ]);
}

/** Networks that allow rules open by `cidrs`, grouped by their ports. */
function openedBy(views: readonly View[]): { networks: Cidr[]; ports: PortRange[] }[] {
  const byPorts = new Map<string, { networks: Set<string>; ports: PortRange[] }>();
  for (const rule of rulesOf(views)) {
    if (rule.cidrs === undefined) continue;
    const ranges = joinPorts(rule.ports);
    const group = byPorts.get(ranges.join()) ?? { networks: new Set(), ports: ranges };
    for (const text of rule.cidrs) group.networks.add(text);
    byPorts.set(ranges.join(), group);
  }
  return [...byPorts.values()].map(({ networks, ports }) => ({ networks: [...networks].map(cidr), ports }));
}

/**
 * Networks that the proxies of a policy connect to, as the policy engine vets addresses: globally reachable ones
 * outside of the cluster's own ranges (`blocked`), and those that allow rules open. Hosts, deny rules, and which client
 * may reach which of them are left to the proxies. A `grain` gives a smaller and wider result, which still excludes addresses that are never allowed.
 */
export function reachOf(spec: EgressPolicySpec, blocked: readonly string[], grain?: Grain): Opening[] {
  const families = familiesOf(spec);
  const usable = (network: Cidr) => families.has(network.family) && onWire(network);
  const own = grain === undefined ? blocked.map(cidr) : [];
  const few = (ports: PortRange[]) => (grain !== undefined && ports.length > grain.ports ? ALL_PORTS : ports);

  const views = directOf(spec);
  const anywhere = few(publicPorts(views, spec));
  const closed = withNat64([...NOT_PUBLIC, ...own]).filter(onWire);
  const everywhere = [
    ...blocksOf(EVERYWHERE.filter(usable), closed),
    ...blocksOf(withNat64(GLOBALLY_REACHABLE).filter(usable), [...NEVER, ...withNat64(own)]),
  ];

  const notPublic = aggregate([...NOT_PUBLIC, ...own]);
  const known = ([low, high]: PortRange) => anywhere.some(([first, last]) => first <= low && high <= last);
  const groups = openedBy(views).map(({ networks, ports }) => ({
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
