import { ANNOTATION } from "../api/names.ts";
import { optIn } from "./inject.ts";
import type { PodLike } from "./pod.ts";

/**
 * covered: every container that the policy means was given what it wants now. stale: it was given something older, so the
 * pod has to be made anew. missed: it asks for the policy and does not (all) send through it: made before the webhook ran,
 * left as it was (another proxy, host network), or running a sender that is known to ignore the variables. none: it does
 * not ask for this policy, or the policy injects nothing.
 */
export type Coverage = "covered" | "stale" | "missed" | "none";

/**
 * How a running pod stands to a policy, by its metadata alone. `wanted`: what `markerOf` says for the policy now.
 * Variables that somebody set by hand are not seen, and count as missed.
 */
export function coverage(
  pod: Pick<PodLike, "metadata">,
  wanted: string | undefined,
  namespaceLabels?: Readonly<Record<string, string>>,
): Coverage {
  const policy = wanted?.split("@")[0];
  if (policy === undefined || optIn(pod, namespaceLabels) !== policy) return "none";
  const { annotations } = pod.metadata;
  const marker = annotations?.[ANNOTATION.injected];
  if (marker?.split("@")[0] !== policy) return "missed";
  if (annotations?.[ANNOTATION.skipped] !== undefined || mayIgnoreProxy(pod) !== undefined) return "missed";
  return marker === wanted ? "covered" : "stale";
}

/** Senders of a pod that are known to ignore what was injected, in words; undefined when none are. */
export function mayIgnoreProxy(pod: Pick<PodLike, "metadata">): string | undefined {
  return pod.metadata.annotations?.[ANNOTATION.mayIgnoreProxy];
}
