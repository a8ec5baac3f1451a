import { gunzipSync } from "node:zlib";
import type { EgressPolicy } from "../../../operator/api/egresspolicy.ts";
import { ANNOTATION, LABEL, SPEC_KEY } from "../../../operator/api/names.ts";
import type { Pod } from "../../../operator/api/objects.ts";
import { isReady } from "../../../operator/api/objects.ts";
import type { KubeObject } from "../../../operator/kube/resource.ts";
import type { ControlPlane } from "../../cluster/plane.ts";
import { documentFault } from "./documents.ts";

/** State of some namespaces without what differs between equal runs, by `Kind namespace/name`. */
export type Snapshot = ReadonlyMap<string, string>;

const PATHS = [
  "/api/v1/namespaces/NS/configmaps",
  "/api/v1/namespaces/NS/services",
  "/api/v1/namespaces/NS/serviceaccounts",
  "/apis/policy/v1/namespaces/NS/poddisruptionbudgets",
  "/apis/networking.k8s.io/v1/namespaces/NS/networkpolicies",
  "/apis/apps/v1/namespaces/NS/deployments",
  `/api/v1/namespaces/NS/pods?labelSelector=${LABEL.fleet}`,
  "/apis/egress.outrider.dev/v1alpha1/namespaces/NS/egresspolicies",
];

/** Objects that every namespace has. */
const isOfNamespace = ({ kind, metadata: { name } }: KubeObject) =>
  (kind === "ConfigMap" && name === "kube-root-ca.crt") || (kind === "ServiceAccount" && name === "default");

/** Text of an object with sorted keys. */
function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (typeof value !== "object" || value === null) return value;
  const keys = Object.keys(value).sort();
  return Object.fromEntries(keys.map((key) => [key, sorted((value as Record<string, unknown>)[key])]));
}

type Loose = Record<string, unknown>;

/** Labels and annotations that differ between equal runs: versions, the generation of the policy, the last upgrade. */
const HISTORY: readonly string[] = [
  ...[ANNOTATION.applied, ANNOTATION.hash, ANNOTATION.upgradedAt, LABEL.ownerSettings, LABEL.upgrade],
  "deployment.kubernetes.io/revision",
];
const lasting = (map: Readonly<Record<string, string>>) =>
  Object.fromEntries(Object.entries(map).filter(([key]) => !HISTORY.includes(key)));

function metadataOf({ metadata }: KubeObject, uids: ReadonlyMap<string, string>): object {
  const { labels = {}, annotations = {}, finalizers, ownerReferences = [], deletionTimestamp } = metadata;
  const owners = ownerReferences.map(({ kind, name, uid }) => `${kind}/${name} ${uids.get(uid) ?? "of another uid"}`);
  return {
    labels: lasting(labels),
    annotations: lasting(annotations),
    finalizers,
    owners,
    ending: deletionTimestamp !== undefined,
  };
}

/** Unpacks what is compressed, and drops times and the changes of the published list, which depend on the history. */
function configMapOf(object: KubeObject): object {
  const { data = {}, binaryData = {} } = object as KubeObject & {
    data?: Record<string, string>;
    binaryData?: Record<string, string>;
  };
  const { [SPEC_KEY]: packed, ...rest } = binaryData;
  const spec =
    packed === undefined ? undefined : JSON.parse(gunzipSync(Buffer.from(packed, "base64")).toString("utf8"));
  const past = { updatedAt: undefined, changes: undefined };
  const list =
    data["ips.json"] === undefined
      ? {}
      : { "ips.json": { ...JSON.parse(data["ips.json"]), ...past }, "ips.html": "", "ips.atom": "" };
  return { data: { ...data, ...list }, binaryData: rest, spec, hash: documentFault(object) ?? "right" };
}

function policyOf({ metadata: { generation }, spec, status }: EgressPolicy): object {
  const { conditions = [], staticIPs, summary, observedGeneration } = status ?? {};
  return {
    spec,
    current: observedGeneration === generation,
    conditions: conditions.map(
      (one) => `${one.type} ${one.status} ${one.reason} ${one.observedGeneration === generation}`,
    ),
    // Server-side apply leaves an empty list, or none, after its last entry was removed.
    staticIPs: (staticIPs ?? []).map(({ address, slot, state }) => ({ address, slot, state })),
    summary: { ...summary, policyHash: undefined },
  };
}

function partsOf(object: KubeObject): object {
  const { spec, data, rules } = object as KubeObject & Loose;
  switch (object.kind) {
    case "ConfigMap":
      return configMapOf(object);
    case "EgressPolicy":
      return policyOf(object as unknown as EgressPolicy);
    case "Service":
      return { ...(spec as Loose), clusterIP: undefined, clusterIPs: undefined, healthCheckNodePort: undefined };
    default:
      return { spec, data, rules };
  }
}

/** Pods have random names: what counts is how many of each slot have which labels. */
function podLine(pod: Pod): string {
  const { labels = {}, deletionTimestamp } = pod.metadata;
  const words = [
    labels[LABEL.fleet],
    labels[LABEL.slot],
    `verified=${labels[LABEL.verified]}`,
    `phase=${labels[LABEL.phase]}`,
  ];
  return [...words, isReady(pod) ? "ready" : "not ready", deletionTimestamp === undefined ? "" : "terminating"]
    .join(" ")
    .trim();
}

/**
 * The present state of namespaces. `replace`: texts that differ between runs, such as names of namespaces and ports,
 * with their common names.
 */
export async function snapshot(
  plane: ControlPlane,
  namespaces: readonly string[],
  replace: readonly (readonly [string, string])[],
): Promise<Snapshot> {
  const objects: KubeObject[] = [];
  for (const namespace of namespaces) {
    for (const path of PATHS) {
      const { kind, items } = (await plane.get<{ kind: string; items: KubeObject[] }>(path.replace("NS", namespace)))!;
      objects.push(...items.map((item) => ({ ...item, kind: kind.replace(/List$/, "") })));
    }
  }
  const policies = objects.filter(({ kind }) => kind === "EgressPolicy").map(({ metadata }) => metadata);
  const uids = new Map(policies.map(({ uid, namespace, name }) => [uid!, `uid of ${namespace}/${name}`]));
  // Names of the operator's own objects contain the uid of their policy.
  const common = (text: string) => [...uids, ...replace].reduce((all, [from, to]) => all.replaceAll(from, to), text);
  const entries = objects
    .filter((object) => !isOfNamespace(object) && object.kind !== "Pod")
    .map((object): [string, string] => {
      const what = { metadata: metadataOf(object, uids), ...partsOf(object) };
      const name = `${object.kind} ${object.metadata.namespace}/${object.metadata.name}`;
      return [common(name), common(JSON.stringify(sorted(what)))];
    });
  const pods = objects.filter(({ kind }) => kind === "Pod") as Pod[];
  const lines = namespaces.map((namespace): [string, string] => {
    const own = pods.filter(({ metadata }) => metadata.namespace === namespace);
    return [common(`Pods ${namespace}`), own.map(podLine).sort().join("\n")];
  });
  return new Map([...entries, ...lines].sort(([a], [b]) => (a < b ? -1 : 1)));
}

const CONTEXT = 60;

/** The first place where two texts differ, with its surroundings. */
function firstDifference(a: string, b: string): string {
  let at = 0;
  while (at < a.length && a[at] === b[at]) at++;
  const part = (text: string) => text.slice(Math.max(0, at - CONTEXT), at + CONTEXT);
  return `…${part(a)}… is not …${part(b)}…`;
}

/** How a state differs from the expected one; empty: not at all. */
export function differences(found: Snapshot, expected: Snapshot): string[] {
  const extra = [...found.keys()].filter((name) => !expected.has(name)).map((name) => `too much: ${name}`);
  const missing = [...expected.keys()].filter((name) => !found.has(name)).map((name) => `missing: ${name}`);
  const changed = [...expected].flatMap(([name, text]) => {
    const now = found.get(name);
    return now === undefined || now === text ? [] : [`${name}: ${firstDifference(now, text)}`];
  });
  return [...extra, ...missing, ...changed];
}
