import { ANNOTATION } from "../api/names.ts";
import { optIn } from "./inject.ts";
import { isMirror, type PodLike } from "./pod.ts";
import type { ExpectedOf } from "./variables.ts";

/**
 * Injection state of a pod. covered: every selected container has the current settings. stale: it has older settings,
 * so the pod has to be restarted. missed: the pod requests the policy, and not all of it sends through the proxies. It
 * was created before the webhook ran, it was skipped (another proxy, host network), it is a static pod, its sender is
 * known to ignore the variables, or the proxies refuse it, for lack of a certificate or an entry of `spec.clients`. none: it does
 * not request this policy, or the policy injects nothing.
 */
export type Coverage = "covered" | "stale" | "missed" | "none";

/**
 * Injection state of a running pod, by its metadata alone. `expectedOf`: result of `expectedBy` for the policy. A
 * pod whose variables were set by hand counts as missed.
 */
export function coverage(
  pod: Pick<PodLike, "metadata">,
  expectedOf: ExpectedOf,
  namespaceLabels?: Readonly<Record<string, string>>,
): Coverage {
  const expected = expectedOf(pod);
  const policy = expected?.marker.split("@")[0];
  if (expected === undefined || optIn(pod, namespaceLabels) !== policy) return "none";
  const { annotations } = pod.metadata;
  const marker = annotations?.[ANNOTATION.injected];
  if (marker?.split("@")[0] !== policy || isMirror(pod)) return "missed";
  if (annotations?.[ANNOTATION.skipped] !== undefined || mayIgnoreProxy(pod) !== undefined) return "missed";
  if (expected.refused) return "missed";
  return marker === expected.marker ? "covered" : "stale";
}

/** Message about senders of a pod that are known to ignore the variables; undefined if there are none. */
export function mayIgnoreProxy(pod: Pick<PodLike, "metadata">): string | undefined {
  return pod.metadata.annotations?.[ANNOTATION.mayIgnoreProxy];
}
