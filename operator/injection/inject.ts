import { ANNOTATION, EVENT_REASON, INJECT_DISABLED, LABEL } from "../api/names.ts";
import { type Conflict, planEnv } from "./env.ts";
import type { JsonPatch, PodLike } from "./pod.ts";
import { PRESETS } from "./presets.ts";
import { type Chosen, choose } from "./sidecars.ts";
import { clientOf, type InjectionTarget, markerOf, ownOf, wantedOf } from "./variables.ts";
import { containerNotes, hint, mayIgnore, type Note, policyNotes } from "./warnings.ts";

export type { JsonPatch, PodLike } from "./pod.ts";
export type { InjectionTarget } from "./variables.ts";

/** What admission answers for a pod, and what its controller is told. */
export interface Injection {
  /** RFC 6902; empty: nothing to change. */
  patch: JsonPatch[];
  /** What kubectl prints to whoever made the pod. The API server drops what exceeds 256 characters, or 4096 in all. */
  warnings: string[];
  /** For the pod's controller, or the pod. Empty when there is nothing to change: it was told before. */
  events: { type: "Normal" | "Warning"; reason: string; message: string }[];
}

const MAX_WARNINGS = 15;
const MAX_WARNING_CHARS = 250;
/** events.k8s.io allows 1024. */
const MAX_EVENT_CHARS = 1000;
const MAX_ANNOTATION_CHARS = 4096;

const cut = (text: string, chars: number): string => (text.length <= chars ? text : `${text.slice(0, chars - 1)}…`);

/** Proxies of a fleet carry the label `fleet`; sent to themselves they would never reach anything. */
const isProxy = (pod: PodLike): boolean => pod.metadata.labels?.[LABEL.fleet] !== undefined;

/**
 * The policy that a pod asks for, by label or annotation `egress.outrider.dev/policy`. Where they differ the annotation
 * counts: labels are often set for a whole chart, an annotation for the pods that are meant. An empty one asks for nothing.
 * Proxies never ask, nor do pods of a namespace that is labelled `egress.outrider.dev/inject: disabled`.
 */
export function optIn(pod: PodLike, namespaceLabels?: Readonly<Record<string, string>>): string | undefined {
  const { labels, annotations } = pod.metadata;
  if (namespaceLabels?.[LABEL.inject] === INJECT_DISABLED || isProxy(pod)) return undefined;
  return (annotations?.[LABEL.policy] ?? labels?.[LABEL.policy])?.trim() || undefined;
}

/** Operations that set keys of a map of the metadata, or remove those without a value. */
function mapPatch(
  pod: PodLike,
  kind: "labels" | "annotations",
  values: Record<string, string | undefined>,
): JsonPatch[] {
  const there = pod.metadata[kind];
  const changed = Object.entries(values).filter(([key, value]) => there?.[key] !== value);
  const path = `/metadata/${kind}`;
  if (there === undefined) return changed.length === 0 ? [] : [{ op: "add", path, value: Object.fromEntries(changed) }];
  return changed.map(([key, value]) => {
    const at = `${path}/${key.replaceAll("~", "~0").replaceAll("/", "~1")}`;
    return value === undefined
      ? { op: "remove", path: at }
      : { op: there[key] === undefined ? "add" : "replace", path: at, value };
  });
}

/** What is left as it is: a container, or `pod` for all of it. */
interface Skipped extends Conflict {
  name: string;
}

/** Why none of a pod's containers can be injected. */
function unfit(pod: PodLike, { policy }: InjectionTarget, chosen: readonly Chosen[]): Skipped | undefined {
  const skip = (why: string, mend: string) => ({ name: "pod", why, mend });
  if (pod.spec?.hostNetwork === true) {
    return skip("it is on the host network, whose address is the node's", "take it off");
  }
  if (chosen.some(({ path }) => path.startsWith("/spec/containers/"))) return undefined;
  const listed = policy.spec.injection.containers?.length ?? 0;
  if (listed > 0) return skip("it has no container of spec.injection.containers", "list one that it has");
  return skip("all its containers are known sidecars", "list those that send in spec.injection.containers");
}

/** Of the init containers that the policy lists the pod has none: a slip of the pen would leave them without a proxy. */
function absentNotes({ spec }: PodLike, { policy }: InjectionTarget): Note[] {
  const { initContainers: listed = [] } = policy.spec.injection;
  if (listed.length === 0 || spec?.initContainers?.some(({ name }) => listed.includes(name))) return [];
  return [hint(`no init container is called ${listed.join(" or ")}, as spec.injection.initContainers has it`)];
}

function skipNote({ name, why, mend }: Skipped): Note {
  return { reason: EVENT_REASON.injectionSkipped, message: `${name}: not injected, ${why}; ${mend}` };
}

/**
 * What makes a pod's containers send through a policy's proxies, and what is to say about it. Pure, and idempotent: the pod
 * as patched gives an empty patch, and a container that was added later (reinvocation) gets its own. The caller has asked
 * {@link optIn}; proxies and policies with `injection.mode: None` give nothing here as well.
 */
export function inject(pod: PodLike, target: InjectionTarget): Injection {
  const { policy } = target;
  const marker = markerOf(target);
  if (marker === undefined || isProxy(pod)) return { patch: [], warnings: [], events: [] };
  const chosen = choose(pod, policy.spec.injection);
  const reason = unfit(pod, target, chosen);
  const skipped = reason === undefined ? [] : [reason];
  const ignoring: string[] = [];
  const injected: string[] = [];
  const patch: JsonPatch[] = [];
  const notes: Note[] = [];
  const context = {
    target,
    preset: PRESETS[policy.spec.preset],
    wanted: wantedOf(target, clientOf(pod)),
    own: ownOf(target, pod),
  };
  for (const one of reason === undefined ? chosen : []) {
    const { container } = one;
    const plan = planEnv(one, context);
    if ("conflict" in plan) {
      skipped.push({ name: container.name, ...plan.conflict });
      continue;
    }
    patch.push(...plan.patch);
    injected.push(container.name);
    const ignores = mayIgnore(container, target);
    if (ignores !== undefined) ignoring.push(`${container.name}: ${ignores}`);
    notes.push(...containerNotes(container, plan.noProxy, target));
    notes.push(...plan.hints.map((text) => hint(`${container.name}: ${text}`)));
  }
  if (injected.length > 0) notes.push(...policyNotes(pod, target));
  notes.push(...absentNotes(pod, target));
  const any = injected.length > 0;
  patch.push(
    ...mapPatch(pod, "labels", { [LABEL.injected]: any ? policy.metadata.name : undefined }),
    ...mapPatch(pod, "annotations", {
      [ANNOTATION.injected]: any ? marker : undefined,
      [ANNOTATION.skipped]: listOf(skipped.map(({ name, why }) => `${name}=${why}`)),
      [ANNOTATION.mayIgnoreProxy]: listOf(ignoring),
    }),
  );
  const all = [...skipped.map(skipNote), ...notes];
  return {
    patch,
    warnings: all.slice(0, MAX_WARNINGS).map(({ message }) => cut(`outrider: ${message}`, MAX_WARNING_CHARS)),
    events: patch.length === 0 ? [] : [...(any ? [injectedEvent(injected, target)] : []), ...all.map(warningEvent)],
  };
}

const listOf = (parts: string[]): string | undefined =>
  parts.length === 0 ? undefined : cut(parts.join("; "), MAX_ANNOTATION_CHARS);

function injectedEvent(names: readonly string[], { policy, host, port }: InjectionTarget): Injection["events"][number] {
  const message = `proxy ${host}:${port} of policy ${policy.metadata.name} set in ${names.join(", ")}`;
  return { type: "Normal", reason: EVENT_REASON.injected, message: cut(message, MAX_EVENT_CHARS) };
}

function warningEvent({ reason, message }: Note): Injection["events"][number] {
  return { type: "Warning", reason, message: cut(message, MAX_EVENT_CHARS) };
}
