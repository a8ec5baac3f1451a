import { cidr } from "../../../proxy/policy/cidr.ts";
import { formatTarget } from "../../../proxy/policy/target.ts";
import { hopTarget } from "../../../proxy/policy/upstream-proxy.ts";
import { type Finding, no, unknown, yes } from "../../api/conditions.ts";
import type { EgressPolicySpec } from "../../api/egresspolicy.ts";
import { childName, REASON, type Reason } from "../../api/names.ts";
import type { KubeObject } from "../../kube/resource.ts";
import type { FleetShape } from "../../providers/provider.ts";
import type { Facts } from "../facts/facts.ts";
import { proxyPorts } from "../objects/deployment.ts";
import { externalIngress } from "../objects/external.ts";
import {
  egressRules,
  type FleetPorts,
  type Opening,
  proxyNetworkPolicy,
  sendersNetworkPolicy,
} from "../objects/networkpolicy.ts";
import { reachableAddresses } from "../placement/nodes.ts";
import type { PlacedSpec } from "../placement/placement.ts";
import { aggregate, singleAddress } from "./cluster-ranges.ts";
import { type Grain, reachOf } from "./reach.ts";

/** NetworkPolicies of a policy, and the problems of building them. */
export interface NetworkPolicies {
  objects: KubeObject[];
  /** Why the NetworkPolicy of the proxies allows more than the policy. */
  widened: string | undefined;
  /** Why the NetworkPolicy of the senders is left unchanged. */
  tooLarge: string | undefined;
}

/**
 * Limit of one NetworkPolicy, in bytes. etcd stores up to 1.5 MiB, and the agent on each node reads every
 * NetworkPolicy.
 */
export const MAX_BYTES = 524_288;

/** From fine to coarse. The last one always fits. */
const GRAINS: readonly Grain[] = [
  { 4: 32, 6: 128, ports: 64 },
  { 4: 24, 6: 64, ports: 20 },
  { 4: 20, 6: 56, ports: 20 },
  { 4: 16, 6: 48, ports: 20 },
  { 4: 12, 6: 32, ports: 20 },
  { 4: 8, 6: 16, ports: 20 },
  { 4: 0, 6: 0, ports: 20 },
];

const bytesOf = (value: unknown): number => Buffer.byteLength(JSON.stringify(value));

interface Reach {
  egress: ReturnType<typeof egressRules>;
  widened: string | undefined;
}

function fitReach(spec: EgressPolicySpec, blocked: readonly string[]): Reach {
  const exact = egressRules(reachOf(spec, blocked));
  if (bytesOf(exact) <= MAX_BYTES) return { egress: exact, widened: undefined };
  const attempt = (grain: Grain): Opening[] => reachOf(spec, blocked, grain);
  const grain = GRAINS.find((one) => bytesOf(egressRules(attempt(one))) <= MAX_BYTES) ?? GRAINS.at(-1)!;
  const size = `the exact rules of the proxies' NetworkPolicy would have ${bytesOf(exact)} bytes; the limit is ${MAX_BYTES}`;
  const networks = `the networks of allow rules are widened to /${grain[4]} (IPv4) and /${grain[6]} (IPv6) or larger, each with the ports of all these rules`;
  const fix = "use fewer or larger networks in cidrs of allow rules";
  return {
    egress: egressRules(attempt(grain)),
    widened: `${size}; ${networks}; public ranges of the cluster are not excluded; ${fix}`,
  };
}

/** Rules by spec: thousands of networks take time, and most reconciles change none. */
const reaches = new WeakMap<object, { blocked: readonly string[]; reach: Reach }>();

function reachFor(spec: EgressPolicySpec, blocked: readonly string[]): Reach {
  const memo = reaches.get(spec);
  if (memo?.blocked === blocked) return memo.reach;
  const reach = fitReach(spec, blocked);
  reaches.set(spec, { blocked, reach });
  return reach;
}

/** Ports of the spec, and the ports of older pods until they are deleted. */
function fleetPorts({ proxies }: Facts, spec: EgressPolicySpec): FleetPorts {
  const own: Record<string, number> = proxyPorts(spec);
  const inUse = (name: string) =>
    proxies
      .flatMap(({ pod }) => pod.spec?.containers ?? [])
      .flatMap(({ ports = [] }) => ports.flatMap((port) => (port.name === name ? [port.containerPort] : [])));
  const all = (...names: string[]) =>
    [...new Set(names.flatMap((name) => [...(own[name] === undefined ? [] : [own[name]]), ...inUse(name)]))].sort(
      (a, b) => a - b,
    );
  const inside = new Set(["proxy", "tls", "admin"].flatMap(inUse));
  return {
    proxy: all("proxy", "tls"),
    // Clients outside of the cluster wait until no older pod has another port with this number.
    external: all("external").filter((port) => !inside.has(port)),
    admin: all("admin"),
  };
}

/** Networks of proxies that no selector finds: the nodes where they run, and the nodes where they may run. */
function hostAddresses({ proxies, nodes }: Facts, spec: EgressPolicySpec, shape: FleetShape): string[] {
  const present = proxies.filter(({ pod }) => pod.spec?.hostNetwork === true).flatMap(({ ips }) => ips);
  const possible = shape.kind === "Slots" ? reachableAddresses(nodes ?? [], spec) : [];
  const networks = [...present, ...possible].map(singleAddress).filter((text) => text !== null);
  return aggregate(networks.map(cidr)).map(({ text }) => text);
}

/** Pure: the NetworkPolicies of a spec. `adminFrom`: see {@link proxyNetworkPolicy}. */
export function networkPolicies(
  facts: Facts,
  spec: EgressPolicySpec,
  shape: FleetShape,
  adminFrom: readonly string[] | undefined,
): NetworkPolicies {
  const { policy, blockedCIDRs } = facts;
  const ports = fleetPorts(facts, spec);
  const built: NetworkPolicies = { objects: [], widened: undefined, tooLarge: undefined };
  // During a migration to slots, the pods on the pod network still need their NetworkPolicy.
  const bound = shape.kind !== "Slots" || facts.proxies.some(({ pod }) => pod.spec?.hostNetwork !== true);
  if (spec.networkPolicy.proxy === "Enabled" && bound) {
    const { egress, widened } = reachFor(spec, blockedCIDRs);
    built.objects.push(proxyNetworkPolicy(policy, ports, adminFrom, externalIngress(spec, ports.external), egress));
    built.widened = widened;
  }
  if (spec.networkPolicy.senders === "Enabled") {
    const { additionalEgress } = spec.networkPolicy;
    const senders = sendersNetworkPolicy(policy, additionalEgress, ports, hostAddresses(facts, spec, shape));
    const bytes = bytesOf(senders.spec);
    if (bytes <= MAX_BYTES) built.objects.push(senders);
    else {
      built.tooLarge = `spec.networkPolicy.additionalEgress: the senders' NetworkPolicy would have ${bytes} bytes; the limit is ${MAX_BYTES}, so the existing one is left unchanged; use fewer or larger networks`;
    }
  }
  return built;
}

/** A note for an upstream proxy whose addresses the operator does not know. */
function namedUpstream({ upstreamProxy }: EgressPolicySpec): string[] {
  if (upstreamProxy === undefined) return [];
  const target = hopTarget(upstreamProxy);
  if (target.ip) return [];
  const shown = formatTarget(target);
  return [
    `the upstream proxy ${shown} is open at public addresses only; if it has a private one, write it into spec.upstreamProxy.url`,
  ];
}

/**
 * Condition NetworkPolicyApplied. `problem`: why one could not be applied. No object says whether a plugin enforces
 * them.
 */
export function judgeNetworkPolicies(
  { policy, nodes }: Facts,
  { spec, provider }: Pick<PlacedSpec, "spec" | "provider">,
  { objects, widened, tooLarge }: NetworkPolicies,
  problem: { reason: Reason; message: string } | undefined,
): Finding {
  const { proxy, senders } = spec.networkPolicy;
  const unbound =
    "the proxies have no NetworkPolicy, since they use the networks of nodes, where it would have no effect";
  if (problem !== undefined) return no(problem.reason, problem.message);
  if (tooLarge !== undefined) return no(REASON.tooLarge, tooLarge);
  if (proxy === "Disabled" && senders === "Disabled") {
    return unknown(REASON.notRequested, "spec.networkPolicy: proxy and senders are Disabled");
  }
  if (objects.length === 0) return unknown(REASON.hostNetwork, unbound);
  const names = objects.map(({ metadata }) => metadata.name);
  const be = names.length === 1 ? "is" : "are";
  const notes = [
    `${names.join(" and ")} ${be} applied (no effect unless the network plugin enforces NetworkPolicies)`,
    ...(proxy === "Enabled" && !names.includes(childName.fleet(policy.metadata.name)) ? [unbound] : []),
    ...(senders === "Enabled" && provider.shape.kind === "Slots" && nodes === undefined
      ? ["the operator does not watch nodes (--discover-cidrs off), so senders reach only nodes that run a proxy now"]
      : []),
    ...(widened === undefined ? [] : [widened]),
    ...(proxy === "Enabled" ? namedUpstream(spec) : []),
  ];
  return yes(widened === undefined ? REASON.applied : REASON.widened, notes.join("; "));
}
