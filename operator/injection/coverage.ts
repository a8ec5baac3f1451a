import { ANNOTATION } from "../api/names.ts";
import { optIn } from "./inject.ts";
import { isMirror, type PodLike } from "./pod.ts";
import type { MarkerFor } from "./variables.ts";

/**
 * Injection state of a pod. covered: every selected container has the current settings. stale: it has older settings,
 * so the pod has to be restarted. missed: the pod requests the policy, and not all of it sends through the proxies. It
 * was created before the webhook ran, it was skipped (another proxy, host network), it is a static pod, or its sender is
 * known to ignore the variables. none: it does not request this policy, or the policy injects nothing.
 */
export type Coverage = "covered" | "stale" | "missed" | "none";

/**
 * Injection state of a running pod, by its metadata alone. `markerFor`: result of `markersOf` for the policy. A pod
 * whose variables were set by hand counts as missed.
 */
export function coverage(
  pod: Pick<PodLike, "metadata">,
  markerFor: MarkerFor,
  namespaceLabels?: Readonly<Record<string, string>>,
): Coverage {
  const wanted = markerFor(pod);
  const policy = wanted?.split("@")[0];
  if (policy === undefined || optIn(pod, namespaceLabels) !== policy) return "none";
  const { annotations } = pod.metadata;
  const marker = annotations?.[ANNOTATION.injected];
  if (marker?.split("@")[0] !== policy || isMirror(pod)) return "missed";
  if (annotations?.[ANNOTATION.skipped] !== undefined || mayIgnoreProxy(pod) !== undefined) return "missed";
  return marker === wanted ? "covered" : "stale";
}

/** Message about senders of a pod that are known to ignore the variables; undefined if there are none. */
export function mayIgnoreProxy(pod: Pick<PodLike, "metadata">): string | undefined {
  return pod.metadata.annotations?.[ANNOTATION.mayIgnoreProxy];
}
