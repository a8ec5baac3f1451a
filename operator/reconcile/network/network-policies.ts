import { cidr } from "../../../proxy/policy/cidr.ts";
import { type Finding, no, unknown, yes } from "../../api/conditions.ts";
import type { EgressPolicy } from "../../api/egresspolicy.ts";
import { childName, REASON, type Reason } from "../../api/names.ts";
import type { KubeObject } from "../../kube/resource.ts";
import type { Provider } from "../../providers/provider.ts";
import type { Facts } from "../facts/facts.ts";
import { proxyPorts } from "../objects/deployment.ts";
import { egressRules, type FleetPorts, proxyNetworkPolicy, sendersNetworkPolicy } from "../objects/networkpolicy.ts";
import { nodeAddresses } from "../placement/nodes.ts";
import { aggregate, whole } from "./cluster-ranges.ts";
import { type Grain, type Opening, reachOf } from "./reach.ts";

type Spec = EgressPolicy["spec"];

/** The NetworkPolicies of a policy, and what has to be said of them. */
export interface NetworkPolicies {
  objects: KubeObject[];
  /** Why the one of the proxies opens more than they may dial. */
  widened: string | undefined;
  /** Why the one of the senders stays as it stands. */
  tooLarge: string | undefined;
}

/** etcd takes 1.5 MiB, and each node's agent reads every one of them. */
export const MAX_BYTES = 524_288;

/** From fine to coarse; the last one always fits. */
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

function fit(spec: Spec, blocked: readonly string[]): Reach {
  const exact = egressRules(reachOf(spec, blocked));
  if (bytesOf(exact) <= MAX_BYTES) return { egress: exact, widened: undefined };
  const attempt = (grain: Grain): Opening[] => reachOf(spec, blocked, grain);
  const grain = GRAINS.find((one) => bytesOf(egressRules(attempt(one))) <= MAX_BYTES) ?? GRAINS.at(-1)!;
  const size = `what the proxies may dial takes ${bytesOf(exact)} bytes, and at most ${MAX_BYTES} are put into a NetworkPolicy`;
  const networks = `networks of allow rules are joined, to /${grain[4]} (IPv4) and /${grain[6]} (IPv6) at least`;
  return {
    egress: egressRules(attempt(grain)),
    widened: `${size}: ${networks}, for the ports of all of them; the cluster's public ranges are not left out`,
  };
}

/** By spec: thousands of networks take a while, and most reconciles change none. */
const memos = new WeakMap<object, { blocked: readonly string[]; reach: Reach }>();

function remembered(spec: Spec, blocked: readonly string[]): Reach {
  const memo = memos.get(spec);
  if (memo?.blocked === blocked) return memo.reach;
  const reach = fit(spec, blocked);
  memos.set(spec, { blocked, reach });
  return reach;
}

/** Older pods listen on their own ports until they are gone. */
function portsOf({ proxies }: Facts, spec: Spec): FleetPorts {
  const { port, adminPort } = proxyPorts(spec);
  const standing = (name: string) =>
    proxies
      .flatMap(({ pod }) => pod.spec?.containers ?? [])
      .flatMap(({ ports = [] }) => ports.flatMap((port) => (port.name === name ? [port.containerPort] : [])));
  const all = (name: string, own: number) => [...new Set([own, ...standing(name)])].sort((a, b) => a - b);
  return { proxy: all("proxy", port), admin: all("admin", adminPort) };
}

/** Addresses of proxies that no selector finds, where they stand and where they may come to stand, in the fewest networks. */
function hostAddresses({ proxies, nodes }: Facts, spec: Spec, { hostNetwork }: Provider): string[] {
  const standing = proxies.filter(({ pod }) => pod.spec?.hostNetwork === true).flatMap(({ ips }) => ips);
  const possible = hostNetwork ? nodeAddresses(nodes ?? [], spec) : [];
  const networks = [...standing, ...possible].map(whole).filter((text) => text !== null);
  return aggregate(networks.map(cidr)).map(({ text }) => text);
}

/** Pure: the NetworkPolicies that a spec asks for. `adminFrom`: see {@link proxyNetworkPolicy}. */
export function networkPolicies(
  facts: Facts,
  spec: Spec,
  provider: Provider,
  adminFrom: readonly string[] | undefined,
): NetworkPolicies {
  const { policy, blockedCIDRs } = facts;
  const ports = portsOf(facts, spec);
  const made: NetworkPolicies = { objects: [], widened: undefined, tooLarge: undefined };
  // One that gives way to slots on nodes' networks is bound as long as it runs.
  const bound = !provider.hostNetwork || facts.proxies.some(({ pod }) => pod.spec?.hostNetwork !== true);
  if (spec.networkPolicy.proxy === "Enabled" && bound) {
    const { egress, widened } = remembered(spec, blockedCIDRs);
    made.objects.push(proxyNetworkPolicy(policy, ports, adminFrom, egress));
    made.widened = widened;
  }
  if (spec.networkPolicy.senders === "Enabled") {
    const { additionalEgress } = spec.networkPolicy;
    const senders = sendersNetworkPolicy(policy, additionalEgress, ports, hostAddresses(facts, spec, provider));
    const bytes = bytesOf(senders.spec);
    if (bytes <= MAX_BYTES) made.objects.push(senders);
    else {
      made.tooLarge = `spec.networkPolicy.additionalEgress: the senders' NetworkPolicy would have ${bytes} bytes; at most ${MAX_BYTES} are applied, and it stays as it was`;
    }
  }
  return made;
}

/** What the condition says. `problem`: what stood in the way of them. Whether a network plugin enforces them, no object tells. */
export function judgeNetworkPolicies(
  { policy, nodes }: Facts,
  spec: Spec,
  { hostNetwork }: Provider,
  { objects, widened, tooLarge }: NetworkPolicies,
  problem: { reason: Reason; message: string } | undefined,
): Finding {
  const { proxy, senders } = spec.networkPolicy;
  const unbound = "none is made for the proxies: they are on nodes' networks, where none binds";
  if (problem !== undefined) return no(problem.reason, problem.message);
  if (tooLarge !== undefined) return no(REASON.tooLarge, tooLarge);
  if (proxy === "Disabled" && senders === "Disabled") {
    return unknown(REASON.notRequested, "spec.networkPolicy: proxy and senders are Disabled, none is made");
  }
  if (objects.length === 0) return unknown(REASON.hostNetwork, unbound);
  const names = objects.map(({ metadata }) => metadata.name);
  const notes = [
    `${names.join(" and ")} ${names.length === 1 ? "is" : "are"} applied, and ${names.length === 1 ? "binds" : "bind"} where the network plugin enforces NetworkPolicies`,
    ...(proxy === "Enabled" && !names.includes(childName.fleet(policy.metadata.name)) ? [unbound] : []),
    ...(senders === "Enabled" && hostNetwork && nodes === undefined
      ? ["nodes are not watched: senders reach proxies where they stand now"]
      : []),
    ...(widened === undefined ? [] : [widened]),
  ];
  return yes(widened === undefined ? REASON.applied : REASON.widened, notes.join("; "));
}
