import type { EgressPolicy } from "../api/egresspolicy.ts";
import type { Node } from "../api/objects.ts";

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
  if (node.spec?.unschedulable === true || !isSelected(node, spec)) return false;
  return (node.spec?.taints ?? []).every(
    (taint) => taint.effect === "PreferNoSchedule" || tolerated(taint, spec.proxy),
  );
}
