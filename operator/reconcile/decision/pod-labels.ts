import type { EgressPolicy } from "../../api/egresspolicy.ts";
import { LABEL } from "../../api/names.ts";
import { isOpen, type ProxyFacts } from "../../fleet/proxy-status.ts";
import { lastingSlots, slotsOf } from "../../fleet/slots.ts";
import { type Provider, servingLabels } from "../../providers/provider.ts";

/** Whether a slot, or a shared fleet, has a proxy that may take traffic now. */
export function serves(slot: string, proxies: readonly ProxyFacts[], spec: EgressPolicy["spec"]): boolean {
  return proxies.some((proxy) => proxy.slot === slot && proxy.ready && isOpen(proxy.status, spec));
}

/** What is changed on proxy pods: labels and annotations that are merged into theirs; null takes one away. */
export interface PodPatch {
  pod: ProxyFacts["pod"];
  labels?: Record<string, string | null>;
  annotations?: Record<string, string>;
}

/** Labels by which the client Service of some provider selects. */
export const SERVING_LABELS = [LABEL.verified, LABEL.phase] as const;
export type ServingLabel = (typeof SERVING_LABELS)[number];

/**
 * Slots that get nothing new, as long as others serve: an address on its way out is better than none. A proxy that is ready
 * and was not asked yet is taken to serve, or every start of the operator would bring them back for a moment.
 */
function outOfService(proxies: readonly ProxyFacts[], spec: EgressPolicy["spec"]): ReadonlySet<string> {
  const slots = slotsOf(spec);
  const active = lastingSlots(spec);
  const others = proxies.some(
    ({ slot, ready, status }) => active.has(slot) && ready && (status === undefined || isOpen(status, spec)),
  );
  if (!others) return new Set();
  return new Set(slots.flatMap(({ id, retiring }) => (retiring ? [id] : [])));
}

/**
 * What the client Service selects by, of `keys`. `verified`: on pods whose gate is open, of slots that are not retiring; a
 * proxy that gives no answer keeps what it has, since its own gate still refuses what is not proven. `phase`: on all
 * pods, where readiness says the rest.
 */
export function labelPatches(
  proxies: readonly ProxyFacts[],
  provider: Pick<Provider, "slots" | "gated">,
  spec: EgressPolicy["spec"],
  keys: readonly ServingLabel[] = SERVING_LABELS,
): PodPatch[] {
  const retiring = outOfService(proxies, spec);
  const selected = servingLabels(provider);
  const wanted = (key: ServingLabel, { slot, status, pod }: ProxyFacts): string | null => {
    if (selected[key] === undefined) return null;
    if (key === LABEL.phase) return retiring.has(slot) ? "Retiring" : selected[key];
    const open = status === undefined ? pod.metadata.labels?.[key] === selected[key] : isOpen(status, spec);
    return open && !retiring.has(slot) ? selected[key] : null;
  };
  return proxies.flatMap((proxy): PodPatch[] => {
    const changed = keys
      .map((key) => [key, wanted(key, proxy)] as const)
      .filter(([key, value]) => (proxy.pod.metadata.labels?.[key] ?? null) !== value);
    return proxy.leaving || changed.length === 0 ? [] : [{ pod: proxy.pod, labels: Object.fromEntries(changed) }];
  });
}
