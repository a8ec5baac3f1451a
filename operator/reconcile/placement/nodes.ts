import { joinNames } from "../../api/conditions.ts";
import type { EgressPolicySpec } from "../../api/egresspolicy.ts";
import type { Node } from "../../api/objects.ts";

type Taint = NonNullable<NonNullable<Node["spec"]>["taints"]>[number];

/** Whether a toleration of the policy matches a taint (core/v1 Toleration). */
function tolerated(taint: Taint, proxy: EgressPolicySpec["proxy"]): boolean {
  return (proxy?.tolerations ?? []).some((toleration) => {
    if (toleration.effect !== undefined && toleration.effect !== taint.effect) return false;
    if (toleration.key === undefined || toleration.key === "") return toleration.operator === "Exists";
    if (toleration.key !== taint.key) return false;
    return toleration.operator === "Exists" || (toleration.value ?? "") === (taint.value ?? "");
  });
}

/** Field that selects the nodes of a policy's proxies, and its labels. */
export function selectorOf({ nat, proxy }: EgressPolicySpec): { field: string; labels: Record<string, string> } {
  const own = nat?.nodeAddress?.nodeSelector;
  if (own !== undefined) return { field: "spec.nat.nodeAddress.nodeSelector", labels: own };
  return { field: "spec.proxy.nodeSelector", labels: proxy?.nodeSelector ?? {} };
}

/** Whether a node has the labels that a policy requires. */
export function isSelected({ metadata }: Node, spec: EgressPolicySpec): boolean {
  return Object.entries(selectorOf(spec).labels).every(([key, value]) => metadata.labels?.[key] === value);
}

/** Why a node cannot run a proxy of this policy; undefined if it can. An estimate for messages: the scheduler decides. */
function whyUnusable(node: Node, spec: EgressPolicySpec): string | undefined {
  if (!isSelected(node, spec)) return `not selected by ${selectorOf(spec).field}`;
  if (node.spec?.unschedulable === true) return "cordoned";
  if (!isTolerated(node, spec, () => false)) return "with a taint that spec.proxy.tolerations does not tolerate";
  return undefined;
}

/** Whether a node can run a proxy of this policy. */
export function canTake(node: Node, spec: EgressPolicySpec): boolean {
  return whyUnusable(node, spec) === undefined;
}

/** Nodes that cannot run a proxy of this policy, by reason: `cordoned: a; not selected by FIELD: b, c`. */
export function unusable(nodes: readonly Node[], spec: EgressPolicySpec): string[] {
  const byReason = Map.groupBy(nodes, (node) => whyUnusable(node, spec));
  return [...byReason].flatMap(([why, some]) => (why === undefined ? [] : [`${why}: ${joinNames(some)}`])).sort();
}

/** Whether a policy tolerates the taints of a node, without those that `ignored` matches. */
function isTolerated({ spec }: Node, { proxy }: EgressPolicySpec, ignored: (taint: Taint) => boolean): boolean {
  const taints = (spec?.taints ?? []).filter((taint) => taint.effect !== "PreferNoSchedule" && !ignored(taint));
  return taints.every((taint) => tolerated(taint, proxy));
}

/** Well-known taints of nodes that are cordoned, not ready or short of a resource. They are temporary. */
const isTemporary = ({ key }: Taint): boolean => key.startsWith("node.kubernetes.io/");

/**
 * Addresses on which proxies on node networks can be reached: the internal ones of a node, or the external ones if it
 * has no internal ones (status.hostIP of pods). Nodes that are cordoned or not ready count, since a proxy may still run
 * there.
 */
export function reachableAddresses(nodes: readonly Node[], spec: EgressPolicySpec): string[] {
  return nodes
    .filter((node) => isSelected(node, spec) && isTolerated(node, spec, isTemporary))
    .flatMap(({ status }) => {
      const of = (type: string) => (status?.addresses ?? []).filter((one) => one.type === type);
      const internal = of("InternalIP");
      return (internal.length > 0 ? internal : of("ExternalIP")).map(({ address }) => address);
    });
}
