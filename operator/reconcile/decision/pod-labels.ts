import type { EgressPolicySpec } from "../../api/egresspolicy.ts";
import { LABEL } from "../../api/names.ts";
import { isOpen, type ProxyFacts } from "../../fleet/proxy-status.ts";
import { lastingSlots, type Slot } from "../../fleet/slots.ts";
import { servingLabels } from "../../providers/provider.ts";
import type { PlacedSpec } from "../placement/placement.ts";

/** Whether a slot, or a shared fleet, has a proxy that can take traffic now. */
export function serves(slot: string, proxies: readonly ProxyFacts[], spec: EgressPolicySpec): boolean {
  return proxies.some((proxy) => proxy.slot === slot && proxy.ready && isOpen(proxy.status, spec));
}

/** Labels and annotations to merge into those of a proxy pod. Null removes one. */
export interface PodPatch {
  pod: ProxyFacts["pod"];
  labels?: Record<string, string | null>;
  annotations?: Record<string, string>;
}

/** Labels by which client Services select, whatever the provider. */
export const SERVING_LABELS = [LABEL.verified, LABEL.phase] as const;
type ServingLabel = (typeof SERVING_LABELS)[number];

/**
 * Retiring slots that get no new requests. None if no other slot serves: a retiring address is better than an outage. A
 * ready proxy that was not polled yet counts as serving, so that an operator restart does not change labels for a
 * moment.
 */
function outOfService(
  proxies: readonly ProxyFacts[],
  spec: EgressPolicySpec,
  slots: readonly Slot[],
): ReadonlySet<string> {
  const active = lastingSlots(slots);
  const others = proxies.some(
    ({ slot, ready, status }) => active.has(slot) && ready && (status === undefined || isOpen(status, spec)),
  );
  if (!others) return new Set();
  return new Set(slots.flatMap(({ id, retiring }) => (retiring ? [id] : [])));
}

/**
 * Patches of the pod labels `keys`, by which the client Service selects. `verified` is set on pods whose gate is open,
 * except in retiring slots. A proxy that does not answer keeps its label, since its own gate still rejects unproven
 * requests. `phase` is set on all pods; readiness decides the rest.
 */
export function labelPatches(
  proxies: readonly ProxyFacts[],
  { spec, provider, slots }: Pick<PlacedSpec, "spec" | "provider" | "slots">,
  keys: readonly ServingLabel[] = SERVING_LABELS,
): PodPatch[] {
  const retiring = outOfService(proxies, spec, slots);
  const selected = servingLabels(provider.shape);
  const wanted = (key: ServingLabel, { slot, status, pod }: ProxyFacts): string | null => {
    const value = selected[key];
    if (value === undefined) return null;
    if (key === LABEL.phase) return retiring.has(slot) ? "Retiring" : value;
    const open = status === undefined ? pod.metadata.labels?.[key] === value : isOpen(status, spec);
    return open && !retiring.has(slot) ? value : null;
  };
  return proxies.flatMap((proxy): PodPatch[] => {
    const changed = keys
      .map((key) => [key, wanted(key, proxy)] as const)
      .filter(([key, value]) => (proxy.pod.metadata.labels?.[key] ?? null) !== value);
    return proxy.terminating || changed.length === 0 ? [] : [{ pod: proxy.pod, labels: Object.fromEntries(changed) }];
  });
}
