import type { EgressPolicy } from "../../api/egresspolicy.ts";
import type { Node } from "../../api/objects.ts";

type Spec = EgressPolicy["spec"];
type Taint = NonNullable<NonNullable<Node["spec"]>["taints"]>[number];

/** Whether a toleration of the policy stands against a taint (core/v1 Toleration). */
function tolerated(taint: Taint, proxy: Spec["proxy"]): boolean {
  return (proxy?.tolerations ?? []).some((toleration) => {
    if (toleration.effect !== undefined && toleration.effect !== taint.effect) return false;
    if (toleration.key === undefined || toleration.key === "") return toleration.operator === "Exists";
    if (toleration.key !== taint.key) return false;
    return toleration.operator === "Exists" || (toleration.value ?? "") === (taint.value ?? "");
  });
}

/** The field that chooses the nodes of a policy's proxies, and the labels that it asks for. */
export function selectorOf({ nat, proxy }: Spec): { field: string; labels: Record<string, string> } {
  const own = nat?.nodeAddress?.nodeSelector;
  if (own !== undefined) return { field: "spec.nat.nodeAddress.nodeSelector", labels: own };
  return { field: "spec.proxy.nodeSelector", labels: proxy?.nodeSelector ?? {} };
}

/** Whether a node has the labels that a policy's proxies need. */
export function isSelected({ metadata }: Node, spec: Spec): boolean {
  return Object.entries(selectorOf(spec).labels).every(([key, value]) => metadata.labels?.[key] === value);
}

/** Whether a node can take a proxy of this policy: a coarse look, the scheduler decides. */
export function canTake(node: Node, spec: Spec): boolean {
  return node.spec?.unschedulable !== true && isSelected(node, spec) && isTolerated(node, spec, () => false);
}

/** Whether a policy's proxies tolerate the taints of a node. `but`: those that are passed over. */
function isTolerated({ spec }: Node, { proxy }: Spec, but: (taint: Taint) => boolean): boolean {
  const taints = (spec?.taints ?? []).filter((taint) => taint.effect !== "PreferNoSchedule" && !but(taint));
  return taints.every((taint) => tolerated(taint, proxy));
}

/** Set by the cluster while a node is cordoned, not ready or short of something (well-known taints): it passes. */
const passing = ({ key }: Taint): boolean => key.startsWith("node.kubernetes.io/");

/**
 * Addresses on which proxies on nodes' networks can be reached: internal ones, where a node has none the external ones
 * (status.hostIP of pods). Nodes that are cordoned or ill count: a proxy may be there, or come back.
 */
export function nodeAddresses(nodes: readonly Node[], spec: Spec): string[] {
  return nodes
    .filter((node) => isSelected(node, spec) && isTolerated(node, spec, passing))
    .flatMap(({ status }) => {
      const of = (type: string) => (status?.addresses ?? []).filter((one) => one.type === type);
      const internal = of("InternalIP");
      return (internal.length > 0 ? internal : of("ExternalIP")).map(({ address }) => address);
    });
}
