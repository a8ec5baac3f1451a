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

/** How many nodes can take a proxy of this policy: a coarse look, the scheduler decides. */
export function schedulable(nodes: readonly Node[], proxy: ProxySpec): number {
  const selector = Object.entries(proxy?.nodeSelector ?? {});
  return nodes.filter((node) => {
    if (node.spec?.unschedulable === true) return false;
    if (!selector.every(([key, value]) => node.metadata.labels?.[key] === value)) return false;
    return (node.spec?.taints ?? []).every((taint) => taint.effect === "PreferNoSchedule" || tolerated(taint, proxy));
  }).length;
}
