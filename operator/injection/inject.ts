import { ANNOTATION, EVENT_REASON, INJECT_DISABLED, LABEL, SERVICE_TLS_PORT } from "../api/names.ts";
import { volumePatch } from "./authority.ts";
import { clientOf, needsCertificate, whoOf } from "./clients.ts";
import { endpointNotes, rejectedEndpoints } from "./endpoints.ts";
import { type Conflict, planEnv } from "./env.ts";
import { isMirror, type JsonPatch, type PodLike } from "./pod.ts";
import { PRESETS } from "./presets.ts";
import { type Chosen, choose, nativeSidecars } from "./sidecars.ts";
import { type InjectionTarget, markerOf, ownOf, wantedOf } from "./variables.ts";
import { containerNotes, hint, mayIgnore, type Note, policyNotes } from "./warnings.ts";

export type { JsonPatch, PodLike } from "./pod.ts";
export type { InjectionTarget } from "./variables.ts";

/** Result of an injection. */
export interface Injection {
  /** RFC 6902; empty if nothing changes. */
  patch: JsonPatch[];
  /** Warnings that kubectl prints. The API server limits each to 256 characters, and all to 4096. */
  warnings: string[];
  /** Events of the pod's controller, or of the pod. Empty if nothing changes, since they were recorded before. */
  events: { type: "Normal" | "Warning"; reason: string; message: string }[];
}

const MAX_WARNINGS = 15;
/** Limit of one warning, in characters: below the 256 of the API server. */
export const MAX_WARNING_CHARS = 250;
/** events.k8s.io allows 1024. */
const MAX_EVENT_CHARS = 1000;
const MAX_ANNOTATION_CHARS = 4096;

const cut = (text: string, chars: number): string => (text.length <= chars ? text : `${text.slice(0, chars - 1)}…`);

/** Whether a pod is a proxy. A proxy that used itself as a proxy would reach nothing. */
const isProxy = (pod: PodLike): boolean => pod.metadata.labels?.[LABEL.fleet] !== undefined;

/**
 * Name of the policy that a pod requests by the label or annotation `egress.outrider.dev/policy`. If they differ, the
 * annotation counts, since labels are often set for a whole chart. An empty value requests nothing. Proxies, and pods
 * of a namespace with the label `egress.outrider.dev/inject: disabled`, request nothing.
 */
export function optIn(pod: PodLike, namespaceLabels?: Readonly<Record<string, string>>): string | undefined {
  const { labels, annotations } = pod.metadata;
  if (namespaceLabels?.[LABEL.inject] === INJECT_DISABLED || isProxy(pod)) return undefined;
  return (annotations?.[LABEL.policy] ?? labels?.[LABEL.policy])?.trim() || undefined;
}

/** Operations that set labels or annotations, or remove those without a value. */
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

/** Name in {@link Skipped} for all containers of a pod. */
const WHOLE_POD = "pod";

/** A skipped container. */
interface Skipped extends Conflict {
  name: string;
}

/** Why no container of a pod can be injected. */
function unfit(pod: PodLike, { policy }: InjectionTarget, chosen: readonly Chosen[]): Skipped | undefined {
  const skip = (why: string, fix: string) => ({ name: WHOLE_POD, why, fix });
  if (pod.spec?.hostNetwork === true) {
    return skip("it uses the host network, so its address is that of the node", "set hostNetwork: false");
  }
  if (needsCertificate(policy.spec)) {
    const why = "authentication.mode TLS needs a client certificate, which injection does not set";
    return skip(why, "configure the sender yourself, or use BasicOrTLS");
  }
  if (chosen.some(({ path }) => path.startsWith("/spec/containers/"))) return undefined;
  const listed = policy.spec.injection.containers?.length ?? 0;
  if (listed > 0) return skip("spec.injection.containers lists none of its containers", "list those that send");
  return skip("all its containers are known sidecars", "list those that send in spec.injection.containers");
}

/** Hint if the pod has none of the listed init containers: a typing error would leave them without a proxy. */
function absentNotes({ spec }: PodLike, { policy }: InjectionTarget): Note[] {
  const { initContainers: listed = [] } = policy.spec.injection;
  if (listed.length === 0 || spec?.initContainers?.some(({ name }) => listed.includes(name))) return [];
  return [hint(`spec.injection.initContainers: the pod has no init container ${listed.join(" or ")}`)];
}

/** Hint about native sidecars that are left out because the policy does not say whether they send. */
function sidecarNotes(pod: PodLike, { policy }: InjectionTarget): Note[] {
  if (policy.spec.injection.initContainers !== undefined) return [];
  const names = nativeSidecars(pod).map(({ name }) => name);
  if (names.length === 0) return [];
  const fix = "list those that send in spec.injection.initContainers, or set it to []";
  return [hint(`not injected, since they are init containers with restartPolicy Always: ${names.join(", ")}; ${fix}`)];
}

/** Hint if the containers ask the DNS servers of the node, which do not know the names of Services. */
function resolverNotes({ spec }: PodLike, { host }: InjectionTarget): Note[] {
  if (spec?.dnsPolicy !== "Default") return [];
  return [hint(`dnsPolicy Default uses the DNS servers of the node, which cannot resolve ${host}; use ClusterFirst`)];
}

function skipNote({ name, why, fix }: Skipped): Note {
  const what = name === WHOLE_POD ? "the pod" : `container ${name}`;
  return { reason: EVENT_REASON.injectionSkipped, message: `${what} is not injected: ${why}; ${fix}` };
}

/** Result for a mirror pod, which is left unchanged: its containers run from a file of the node. */
const MIRROR: Injection = {
  patch: [],
  warnings: ["outrider: the pod is not injected: it is a static pod; set the variables in its manifest file"],
  events: [],
};

/**
 * Patch that makes the containers of a pod send through the proxies of a policy, with warnings and events. Pure and
 * idempotent: a patched pod gives an empty patch, and a container that was added later (reinvocation) gets its own. The
 * caller has called {@link optIn}. Proxies, and policies with `injection.mode: None`, give an empty result.
 */
export function inject(pod: PodLike, target: InjectionTarget): Injection {
  const { policy } = target;
  const initContainers = (pod.spec?.initContainers ?? []).map(({ name }) => name);
  const marker = markerOf(target, initContainers);
  if (marker === undefined || isProxy(pod)) return { patch: [], warnings: [], events: [] };
  if (isMirror(pod)) return MIRROR;
  const chosen = choose(pod, policy.spec.injection);
  const reason = unfit(pod, target, chosen);
  const skipped = reason === undefined ? [] : [reason];
  const ignoring: string[] = [];
  const injected: string[] = [];
  const endpoints: string[] = [];
  const patch: JsonPatch[] = [];
  const notes: Note[] = [];
  const context = {
    target,
    preset: PRESETS[policy.spec.preset],
    wanted: wantedOf(target, clientOf(pod)),
    own: ownOf(target, pod),
    rules: { policy, who: whoOf(pod, policy.spec) },
  };
  let usesAuthority = false;
  for (const one of reason === undefined ? chosen : []) {
    const { container } = one;
    const plan = planEnv(one, context);
    if ("conflict" in plan) {
      skipped.push({ name: container.name, ...plan.conflict });
      continue;
    }
    patch.push(...plan.patch);
    usesAuthority ||= plan.usesAuthority;
    injected.push(container.name);
    const ignores = mayIgnore(container, target);
    if (ignores !== undefined) ignoring.push(`${container.name}: ${ignores}`);
    const rejected = rejectedEndpoints(container, plan.noProxy, context);
    endpoints.push(...rejected.map(({ name }) => `${container.name}: ${name}`));
    notes.push(...containerNotes(container, plan.noProxy, context), ...endpointNotes(container, rejected));
    notes.push(...plan.hints.map((text) => hint(`container ${container.name}: ${text}`)));
  }
  const any = injected.length > 0;
  if (usesAuthority) patch.push(...volumePatch(pod, context.wanted.authority!));
  if (any) notes.push(...policyNotes(pod, context), ...sidecarNotes(pod, target), ...resolverNotes(pod, target));
  notes.push(...absentNotes(pod, target));
  patch.push(
    ...mapPatch(pod, "labels", { [LABEL.injected]: any ? policy.metadata.name : undefined }),
    ...mapPatch(pod, "annotations", {
      [ANNOTATION.injected]: any ? marker : undefined,
      [ANNOTATION.skipped]: listOf(skipped.map(({ name, why }) => `${name}=${why}`)),
      [ANNOTATION.mayIgnoreProxy]: listOf(ignoring),
      [ANNOTATION.initContainers]: any ? initContainers.join(",") : undefined,
      [ANNOTATION.rejectedEndpoints]: listOf(endpoints),
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
  const shown = policy.spec.injection.tls === true ? SERVICE_TLS_PORT : port;
  const message = `proxy ${host}:${shown} of policy ${policy.metadata.name} set in ${names.join(", ")}`;
  return { type: "Normal", reason: EVENT_REASON.injected, message: cut(message, MAX_EVENT_CHARS) };
}

function warningEvent({ reason, message }: Note): Injection["events"][number] {
  return { type: "Warning", reason, message: cut(message, MAX_EVENT_CHARS) };
}
