import type { EgressPolicy } from "../api/egresspolicy.ts";
import type { Node } from "../api/objects.ts";

type ProxySpec = EgressPolicy["spec"]["proxy"];
type Taint = NonNullable<NonNullable<Node["spec"]>["taints"]>[number];

/** Whether a toleration of the policy stands against a taint (core/v1 Toleration). */
function tolerated(taint: Taint, proxy: ProxySpec): boolean {
  return (proxy?.tolerations ?? []).some((toleration) => {
    if (toleration.effect !== undefined && toleration.effect !== taint.effect) return false;
    if (toleration.key === undefined || toleration.key === "") return toleration.operator === "Exists";
    if (toleration.key !== taint.key) return false;
    return toleration.operator === "Exists" || (toleration.value ?? "") === (taint.value ?? "");
  });
}

/** `but`: taints that are passed over. */
function takes(node: Node, proxy: ProxySpec, but: (taint: Taint) => boolean): boolean {
  const selector = Object.entries(proxy?.nodeSelector ?? {});
  if (!selector.every(([key, value]) => node.metadata.labels?.[key] === value)) return false;
  const taints = (node.spec?.taints ?? []).filter((taint) => taint.effect !== "PreferNoSchedule" && !but(taint));
  return taints.every((taint) => tolerated(taint, proxy));
}

/** How many nodes can take a proxy of this policy: a coarse look, the scheduler decides. */
export function schedulable(nodes: readonly Node[], proxy: ProxySpec): number {
  return nodes.filter((node) => node.spec?.unschedulable !== true && takes(node, proxy, () => false)).length;
}

/** Set by the cluster while a node is cordoned, not ready or short of something (well-known taints): it passes. */
const passing = ({ key }: Taint): boolean => key.startsWith("node.kubernetes.io/");

/**
 * Addresses on which proxies on nodes' networks can be reached: internal ones, where a node has none the external ones
 * (status.hostIP of pods). Nodes that are cordoned or ill count: a proxy may be there, or come back.
 */
export function nodeAddresses(nodes: readonly Node[], proxy: ProxySpec): string[] {
  return nodes
    .filter((node) => takes(node, proxy, passing))
    .flatMap(({ status }) => {
      const of = (type: string) => (status?.addresses ?? []).filter((one) => one.type === type);
      const internal = of("InternalIP");
      return (internal.length > 0 ? internal : of("ExternalIP")).map(({ address }) => address);
    });
}
