import { LABEL, SERVING_PHASE } from "../../api/names.ts";
import { isOpen, type ProxyFacts } from "../../fleet/proxy-status.ts";
import { lastingSlots, SHARED } from "../../fleet/slots.ts";
import { servingLabels } from "../../providers/provider.ts";
import type { PlacedSpec } from "../placement/placement.ts";
import type { Serving } from "./serving.ts";

/** Labels and annotations to merge into those of a proxy pod. Null removes one. */
export interface PodPatch {
  pod: ProxyFacts["pod"];
  labels?: Record<string, string | null>;
  annotations?: Record<string, string>;
}

/** Patches of the pod labels by which client Services select. */
export interface LabelPatches {
  /** Add serving proxies to the Service, and remove proxies that do not serve. These patches disturb no proxy. */
  correct: PodPatch[];
  /** Take retiring proxies that may serve out of the Service. */
  retire: PodPatch[];
  /** Remove labels by which neither the stored Service nor the desired one selects. */
  clean: PodPatch[];
}

/** Labels that are patched, with the values that the client Service selects. */
const SERVING_VALUES = { [LABEL.verified]: "true", [LABEL.phase]: SERVING_PHASE } as const;
type ServingLabel = keyof typeof SERVING_VALUES;
const SERVING_LABELS = Object.keys(SERVING_VALUES) as ServingLabel[];

/** Value of {@link LABEL.phase} on proxies that get no new requests. */
const RETIRING_PHASE = "Retiring";

/**
 * Whether retiring slots belong into the client Service. A retiring address is better than an outage: `in` while no
 * other slot may serve, and before the only other one restarts. `out` when another slot surely serves. `keep` in
 * between, so that a starting operator changes no labels before its first polls.
 */
function retirement(
  { inService, surely }: Serving,
  lasting: ReadonlySet<string>,
  changing: ReadonlySet<string>,
): "in" | "keep" | "out" {
  const serving = new Set(inService.map(({ slot }) => slot).filter((slot) => lasting.has(slot)));
  if (serving.size === 0) return "in";
  if (serving.size === 1 && [...serving].every((slot) => changing.has(slot))) return "in";
  return surely.some(({ slot }) => lasting.has(slot)) ? "out" : "keep";
}

/** Whether a ready pod has proven its source address, so that the kubelet knows it as well. */
function provesByReadiness({ pod }: ProxyFacts): boolean {
  return !(pod.spec?.containers ?? []).some(({ args }) => args?.includes("--readiness=policy"));
}

/**
 * Patches of serving labels. They serve the selector of the stored Service and the desired one, so that the Service can
 * change between both. `verified` is set on pods whose gate is open. A proxy that does not answer keeps its label, since
 * its own gate still rejects unproven requests. `phase` is set on all pods whose readiness waits for the proof.
 * `changing`: ids of slots whose proxies end, since their settings change or have changed.
 */
export function labelPatches(
  proxies: readonly ProxyFacts[],
  { spec, provider, slots }: Pick<PlacedSpec, "spec" | "provider" | "slots">,
  serving: Serving,
  changing: ReadonlySet<string>,
): LabelPatches {
  const selected = { ...serving.selector, ...servingLabels(provider.shape) };
  const retiring = new Set(slots.flatMap(({ id, retiring }) => (retiring ? [id] : [])));
  const known = new Set([SHARED, ...slots.map(({ id }) => id)]);
  const state = retirement(serving, lastingSlots(slots), changing);
  // Retiring slots, and slots that the spec no longer has, which may have been retiring.
  const staysOut = (proxy: ProxyFacts) =>
    retiring.has(proxy.slot) ? state === "keep" : !known.has(proxy.slot) && state !== "in" && !isIn(proxy);
  const isIn = (proxy: ProxyFacts) => serving.inService.includes(proxy);

  const wanted = (key: ServingLabel, proxy: ProxyFacts): string | null => {
    const { pod, slot, status } = proxy;
    const current = pod.metadata.labels?.[key] ?? null;
    if (selected[key] === undefined) return null;
    const answers = status === undefined ? current === SERVING_VALUES[key] : isOpen(status, spec);
    const proven = key === LABEL.phase && provesByReadiness(proxy);
    if (retiring.has(slot) && state === "out") return key === LABEL.phase ? RETIRING_PHASE : null;
    if (staysOut(proxy) && current !== SERVING_VALUES[key]) return current;
    return proven || answers ? SERVING_VALUES[key] : null;
  };

  const patches: LabelPatches = { correct: [], retire: [], clean: [] };
  for (const proxy of proxies) {
    if (proxy.terminating) continue;
    const labels: Record<keyof LabelPatches, Record<string, string | null>> = { correct: {}, retire: {}, clean: {} };
    for (const key of SERVING_LABELS) {
      const value = wanted(key, proxy);
      if ((proxy.pod.metadata.labels?.[key] ?? null) === value) continue;
      const takes = retiring.has(proxy.slot) && state === "out" && isIn(proxy);
      const kind = selected[key] === undefined ? "clean" : takes ? "retire" : "correct";
      labels[kind][key] = value;
    }
    for (const kind of ["correct", "retire", "clean"] as const) {
      if (Object.keys(labels[kind]).length > 0) patches[kind].push({ pod: proxy.pod, labels: labels[kind] });
    }
  }
  return patches;
}
