import type { PolicyCondition } from "../api/conditions.ts";
import type { EgressPolicy, EgressPolicySpec } from "../api/egresspolicy.ts";
import { ANNOTATION, CONDITIONS, clientHost, LABEL, SERVICE_PORT } from "../api/names.ts";
import { isReady, type Pod, whyNotRunning } from "../api/objects.ts";
import type { ProxyStatus } from "../fleet/proxy-status.ts";
import { canonicalAddress } from "../fleet/slots.ts";
import { isRefused, needsCertificate } from "../injection/clients.ts";
import { coverage, mayIgnoreProxy } from "../injection/coverage.ts";
import { isMirror } from "../injection/pod.ts";
import { expectedBy } from "../injection/variables.ts";
import type { KubeObject } from "../kube/resource.ts";
import type { PublishedList } from "../reconcile/objects/published/list.ts";

/** View of one fleet. Computed from objects of the API, without I/O. Times are RFC 3339. */
export interface FleetView {
  namespace: string;
  name: string;
  createdAt: string | null;
  /** Status of the condition Ready. Unknown while no operator has seen the newest spec. */
  ready: "True" | "False" | "Unknown";
  /** The spec that the fleet runs: the newest one, the last accepted one while the newest is rejected, or none. */
  inForce: "newest" | "former" | "none";
  deleting: boolean;
  mode: string;
  preset: string;
  provider: string;
  /** Hash of the document that the proxies should run; null: none yet. */
  hash: string | null;
  endpoint: string | null;
  /** Short counts of the status, as of `kubectl get`. */
  verified: string;
  available: string;
  covered: string;
  conditions: ConditionView[];
  addresses: AddressView[];
  /** The list for customers; undefined: it does not exist, or was not read. */
  published?: PublishedView;
  /** Null: the caller may not list pods. */
  proxies: ProxyView[] | null;
  /** Null: the caller may not list pods, nothing is injected, or the spec in force is unknown. */
  pods: PodView[] | null;
  /** Null: the caller may not list events. */
  events: EventView[] | null;
  hints: string[];
}

export interface ConditionView {
  type: string;
  status: string;
  reason: string;
  message: string;
  since: string | null;
  /** Whether it describes the newest spec. */
  current: boolean;
}

export interface AddressView {
  address: string;
  phase: string;
  state: string;
  node: string | null;
  observed: string | null;
  since: string | null;
}

export interface PublishedView {
  addresses: string[];
  pending: string[];
  retiring: string[];
  updatedAt: string | null;
}

export interface ProxyView {
  pod: string;
  node: string | null;
  ready: boolean;
  /** Address of its slot; null without slots. */
  address: string | null;
  image: string | null;
  /** Version and hash from its `/status`; null while it was not asked, or did not answer. */
  version: string | null;
  hash: string | null;
  /** Why it does not run, or did not answer. */
  problem: string | null;
}

export interface PodView {
  pod: string;
  state: "covered" | "stale" | "missed";
  client: string | null;
  /** Why it does not send through the proxies, with the fix; null for covered pods. */
  reason: string | null;
}

export interface EventView {
  type: string;
  reason: string;
  message: string;
  count: number;
  last: string | null;
}

/** core/v1 Event with the fields that are shown. */
export interface EventObject extends KubeObject {
  involvedObject?: { kind?: string; name?: string; namespace?: string; uid?: string };
  type?: string;
  reason?: string;
  message?: string;
  count?: number;
  lastTimestamp?: string | null;
  eventTime?: string | null;
}

/** Objects that a view is computed from. Undefined: the caller may not list them, or they were not requested. */
export interface FleetObjects {
  policy: EgressPolicy;
  /** Pods of the namespace with the label of a fleet. */
  proxies: readonly Pod[] | undefined;
  /** Metadata of all pods of the namespace. */
  pods: readonly Pick<KubeObject, "metadata">[] | undefined;
  /** Labels of the namespace, which can opt out. */
  namespaceLabels: Readonly<Record<string, string>> | undefined;
  events: readonly EventObject[] | undefined;
  /** The spec that the fleet runs. Default: the newest one, which readers of the policy have. */
  inForce?: EgressPolicySpec | undefined;
  /** Last answer of a proxy, or why there is none. Default: no proxy was asked. */
  answerOf?(pod: Pod): ProxyAnswer;
  published?: PublishedList | undefined;
}

/** Answer of a proxy to `/status`. Neither status nor error: it was not asked yet. */
export interface ProxyAnswer {
  status?: ProxyStatus | undefined;
  error?: string | undefined;
}

/** Number of events in a view. */
const MAX_EVENTS = 10;
/** Domain of Services if the status does not have the endpoint yet. */
const DOMAIN = "cluster.local";

/** A hint that helps before the fleet has to grow. */
export const SPARE_HINT = "a spare (Pending) address lets the fleet grow without a change at customers";

function conditionsOf({ metadata, status }: EgressPolicy): ConditionView[] {
  const found = (status?.conditions ?? []) as readonly PolicyCondition[];
  const order = (type: string) => (CONDITIONS as readonly string[]).indexOf(type);
  return [...found]
    .sort((a, b) => order(a.type) - order(b.type))
    .map(({ type, status, reason, message, lastTransitionTime, observedGeneration }) => ({
      type,
      status,
      reason,
      message,
      since: lastTransitionTime ?? null,
      current: observedGeneration === metadata.generation,
    }));
}

function addressesOf(spec: EgressPolicySpec, status: EgressPolicy["status"]): AddressView[] {
  const states = new Map((status?.staticIPs ?? []).map((one) => [canonicalAddress(one.address), one]));
  const phases = new Map((spec.staticIPs ?? []).map((ip) => [canonicalAddress(ip.address), ip.phase ?? "Active"]));
  return [...new Set([...phases.keys(), ...states.keys()])].map((address) => {
    const seen = states.get(address);
    return {
      address,
      phase: phases.get(address) ?? "Removed",
      state: seen?.state ?? "Unassigned",
      node: seen?.node ?? null,
      observed: seen?.observedAddress ?? null,
      since: seen?.lastTransitionTime ?? null,
    };
  });
}

const publishedView = ({ ipv4, ipv6, pending, retiring, updatedAt }: PublishedList): PublishedView => ({
  addresses: [...ipv4, ...ipv6],
  ...{ pending, retiring },
  updatedAt: updatedAt || null,
});

/** The fleet that a pod belongs to. */
export const fleetOf = ({ metadata }: Pick<Pod, "metadata">): string | undefined => metadata.labels?.[LABEL.fleet];

function problemOf(pod: Pod, { status, error }: ProxyAnswer): string | null {
  if (pod.metadata.deletionTimestamp !== undefined) return "terminating";
  if (!isReady(pod)) return whyNotRunning(pod) ?? status?.policyError ?? error ?? "not ready";
  return status?.policyError ?? error ?? null;
}

function proxyView(pod: Pod, addresses: ReadonlyMap<string, string>, answer: ProxyAnswer): ProxyView {
  const containers = (pod.spec?.containers ?? []) as readonly { image?: string }[];
  return {
    pod: pod.metadata.name,
    node: pod.spec?.nodeName ?? null,
    ready: isReady(pod),
    address: addresses.get(pod.metadata.labels?.[LABEL.slot] ?? "") ?? null,
    image: containers[0]?.image ?? null,
    version: answer.status?.version ?? null,
    hash: answer.status?.hash ?? null,
    problem: problemOf(pod, answer),
  };
}

/** Why a pod that requests a policy does not send through the proxies, with the fix. */
function whyMissed(pod: Pick<KubeObject, "metadata">, policy: EgressPolicy): string {
  const annotations = pod.metadata.annotations ?? {};
  if (isMirror(pod)) return "static pod: set the variables in its file, or use a DaemonSet";
  const skipped = annotations[ANNOTATION.skipped];
  if (skipped !== undefined) return `the webhook skipped it: ${skipped} (correct this, then restart it)`;
  const ignoring = mayIgnoreProxy(pod);
  if (ignoring !== undefined) return `may ignore the proxy settings: ${ignoring}`;
  if (annotations[ANNOTATION.injected] !== undefined && isRefused(pod, policy.spec)) {
    return needsCertificate(policy.spec)
      ? "the proxies refuse it: authentication.mode TLS needs a client certificate"
      : "the proxies refuse it: spec.clients has neither its client nor default";
  }
  return "created before the webhook ran, or before its label or annotation was added (restart it)";
}

/** Whether the newest spec is rejected, as far as an operator has seen it. */
const isRejected = ({ status }: EgressPolicy): boolean =>
  status?.conditions?.some(({ type, status }) => type === "Accepted" && status === "False") ?? false;

function podsOf({ policy: newest, inForce, pods, namespaceLabels }: FleetObjects): PodView[] | null {
  const policy = inForce === undefined ? newest : { ...newest, spec: inForce };
  // While the newest spec is rejected, pods have the settings of an older one, which readers may not read.
  const isUnknown = isRejected(newest) && inForce === undefined;
  if (pods === undefined || policy.spec.injection.mode === "None" || isUnknown) return null;
  const host = policy.status?.endpoint?.host ?? clientHost(policy.metadata, DOMAIN);
  const expectedOf = expectedBy({ policy, host, port: SERVICE_PORT });
  return pods
    .flatMap((pod): PodView[] => {
      const state = coverage(pod, expectedOf, namespaceLabels);
      if (state === "none") return [];
      const old = "has outdated proxy settings (restart it)";
      const reason = state === "covered" ? null : state === "stale" ? old : whyMissed(pod, policy);
      return [{ pod: pod.metadata.name, state, client: pod.metadata.annotations?.[ANNOTATION.client] ?? null, reason }];
    })
    .sort((a, b) => (a.pod < b.pod ? -1 : 1));
}

function eventsOf(policy: EgressPolicy, events: readonly EventObject[] | undefined): EventView[] | null {
  if (events === undefined) return null;
  return events
    .filter(({ involvedObject: about }) => {
      const isSame = about?.name === policy.metadata.name && about.namespace === policy.metadata.namespace;
      return isSame && (about?.uid === undefined || about.uid === policy.metadata.uid);
    })
    .map((event) => ({
      type: event.type ?? "",
      reason: event.reason ?? "",
      message: event.message ?? "",
      count: event.count ?? 1,
      last: event.lastTimestamp ?? event.eventTime ?? event.metadata.creationTimestamp ?? null,
    }))
    .sort((a, b) => ((a.last ?? "") < (b.last ?? "") ? 1 : -1))
    .slice(0, MAX_EVENTS);
}

function hintsOf(spec: EgressPolicySpec, { status, metadata }: EgressPolicy): string[] {
  const hints: string[] = [];
  const ips = spec.staticIPs ?? [];
  if (ips.length > 0 && !ips.some(({ phase }) => phase === "Pending")) hints.push(SPARE_HINT);
  if (status?.observedGeneration !== metadata.generation) {
    hints.push("no operator has seen the newest spec yet; the status describes an older one");
  }
  return hints;
}

/** Computes the view of one fleet. */
export function viewOf(objects: FleetObjects): FleetView {
  const { policy, proxies, events, published, answerOf = () => ({}) } = objects;
  const { metadata, status } = policy;
  const spec = objects.inForce ?? policy.spec;
  const slots = new Map(
    (status?.staticIPs ?? []).flatMap(({ slot, address }) => (slot === undefined ? [] : [[slot, address] as const])),
  );
  const own = proxies?.filter((pod) => fleetOf(pod) === metadata.name && pod.metadata.namespace === metadata.namespace);
  const { endpoint, summary } = status ?? {};
  return {
    namespace: metadata.namespace!,
    name: metadata.name,
    createdAt: metadata.creationTimestamp ?? null,
    ready: status?.observedGeneration === metadata.generation ? (status?.ready ?? "Unknown") : "Unknown",
    inForce: isRejected(policy) ? (status?.summary === undefined ? "none" : "former") : "newest",
    deleting: metadata.deletionTimestamp !== undefined,
    mode: spec.mode,
    preset: spec.preset,
    provider: spec.nat?.provider ?? "External",
    hash: summary?.policyHash ?? null,
    endpoint: endpoint === undefined ? null : `${endpoint.host}:${endpoint.port}`,
    verified: summary?.verified ?? "",
    available: summary?.proxies ?? "",
    covered: summary?.workloads ?? "",
    conditions: conditionsOf(policy),
    addresses: addressesOf(spec, status),
    ...(published === undefined ? {} : { published: publishedView(published) }),
    proxies: own?.map((pod) => proxyView(pod, slots, answerOf(pod))).sort((a, b) => (a.pod < b.pod ? -1 : 1)) ?? null,
    pods: podsOf(objects),
    events: eventsOf(policy, events),
    hints: hintsOf(spec, policy),
  };
}
