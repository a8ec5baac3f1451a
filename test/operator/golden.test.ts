import assert from "node:assert/strict";
import { existsSync, globSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { parse, stringify } from "yaml";
import type { EgressPolicy } from "../../operator/api/egresspolicy.ts";
import { ANNOTATION, childName, DOCUMENT_KEY, LABEL } from "../../operator/api/names.ts";
import type { ConfigMap, Deployment, Node, Pod } from "../../operator/api/objects.ts";
import type { ProxyFacts, ProxyStatus } from "../../operator/fleet/proxy-status.ts";
import { SHARED, slotId } from "../../operator/fleet/slots.ts";
import type { ObjectMeta } from "../../operator/kube/resource.ts";
import { parseGrants } from "../../operator/providers/grants.ts";
import { providerOf } from "../../operator/providers/index.ts";
import { decide } from "../../operator/reconcile/decision/decide.ts";
import { documentOf } from "../../operator/reconcile/decision/document.ts";
import { resolveSpec } from "../../operator/reconcile/decision/resolved-spec.ts";
import { unitsOf } from "../../operator/reconcile/decision/units.ts";
import type { Facts, Holder } from "../../operator/reconcile/facts/facts.ts";
import { type PublishedList, parsePublished } from "../../operator/reconcile/objects/published/list.ts";
import { type Applied, statusOf } from "../../operator/reconcile/status/status.ts";
import { withDefaults } from "../harness/defaults.ts";
import { NO_UPGRADES } from "./worlds.ts";

/**
 * Policies and what is known of their fleets (`*.in.yaml`) → documents, objects, pod labels and status (`*.out.yaml`).
 * UPDATE=1 writes the results. Review the difference before you commit it.
 */

const root = new URL("../..", import.meta.url).pathname;
const NOW = Date.parse("2026-03-01T12:00:00.000Z");
const OPTIONS = {
  image: "outrider:1",
  imagePullPolicy: "IfNotPresent" as const,
  imagePullSecrets: [],
  adminFrom: ["outrider-system"],
};

/** Content of an input: the policy, and existing objects. Only `policy` is required. */
interface Input {
  policy: EgressPolicy;
  /** The spec that was accepted before. */
  kept?: EgressPolicy["spec"];
  others?: EgressPolicy[];
  /** Other policies that hold exclusive addresses, by address. */
  holders?: Record<string, Holder>;
  grants?: unknown[];
  blockedCIDRs?: string[];
  nodes?: (Partial<Node> & { name: string } & Pick<ObjectMeta, "labels" | "annotations">)[];
  /** Existing Deployments. `address`: that of a slot. `addresses`: those of a shared fleet. */
  deployments?: {
    address?: string;
    source?: string;
    addresses?: string;
    status?: Deployment["status"];
    hpa?: boolean;
    /** It has older settings than the spec wants. */
    changed?: boolean;
  }[];
  /** The published list of before. */
  published?: Omit<PublishedList, "changes">;
  /** `status.hash: wanted` is replaced by the hash of the document. */
  proxies?: {
    name: string;
    address?: string;
    node?: string;
    ips?: string[];
    ready?: boolean;
    status?: Partial<ProxyStatus>;
    labelled?: boolean;
    /** The scheduler's words: it found no node. */
    unschedulable?: string;
    /** Why its container does not run, in the kubelet's words. */
    waiting?: { reason: string; message?: string };
    error?: string;
    /** Ports of its container, by name. */
    ports?: Record<string, number>;
  }[];
  injected?: string[];
  /** Pods that ask for the policy, by their metadata. */
  asking?: ObjectMeta[];
  problem?: Applied["problem"];
  networkPolicy?: Applied["networkPolicy"];
}

function factsOf(input: Input): Facts {
  const { policy } = input;
  const { name } = policy.metadata;
  const blockedCIDRs = input.blockedCIDRs ?? [];
  const wanted = (): string => {
    try {
      return documentOf(input.kept === undefined ? policy : { ...policy, spec: input.kept }, blockedCIDRs).hash;
    } catch {
      return "none";
    }
  };
  const slotLabel = (address?: string) => (address === undefined ? SHARED : slotId(address));
  const deployments = (input.deployments ?? []).map((entry): Deployment => {
    const slot = slotLabel(entry.address);
    const manager = entry.hpa ? "kube-controller-manager" : "outrider";
    const managedFields = [{ manager, fieldsV1: { "f:spec": { "f:replicas": {} } } }];
    return {
      apiVersion: "apps/v1",
      kind: "Deployment",
      metadata: {
        name: entry.address === undefined ? childName.fleet(name) : childName.slot(name, slot),
        labels: { [LABEL.slot]: slot },
        annotations: {
          ...(entry.address && { [ANNOTATION.address]: entry.address }),
          ...(entry.source && { [ANNOTATION.source]: entry.source }),
          ...(entry.addresses && { [ANNOTATION.addresses]: entry.addresses }),
        },
        managedFields,
      },
      spec: { replicas: entry.status?.replicas ?? 1 },
      ...(entry.status === undefined ? {} : { status: entry.status }),
    };
  });
  const proxies = (input.proxies ?? []).map((entry): ProxyFacts => {
    const pod: Pod = {
      apiVersion: "v1",
      kind: "Pod",
      metadata: { name: entry.name, labels: entry.labelled ? { [LABEL.verified]: "true" } : {} },
      spec: {
        hostNetwork: entry.address !== undefined,
        containers: [
          { ports: Object.entries(entry.ports ?? {}).map(([name, containerPort]) => ({ name, containerPort })) },
        ],
      },
      status:
        entry.unschedulable === undefined
          ? { phase: "Running" }
          : {
              phase: "Pending",
              conditions: [{ type: "PodScheduled", status: "False", message: entry.unschedulable }],
            },
    };
    if (entry.waiting !== undefined) pod.status!.containerStatuses = [{ state: { waiting: entry.waiting } }];
    const said = entry.status;
    const full: ProxyStatus = { hash: null, policyError: null, ready: true, sources: [], proofs: [], ...said };
    return {
      pod,
      slot: slotLabel(entry.address),
      node: entry.node,
      ips: entry.ips ?? [],
      ready: entry.ready ?? true,
      terminating: false,
      status: said === undefined ? undefined : { ...full, hash: full.hash === "wanted" ? wanted() : full.hash },
      error: entry.error,
      polled: true,
      outdated: false,
    };
  });
  return {
    now: NOW,
    policy,
    record: { spec: undefined, published: input.published && parsePublished(JSON.stringify(input.published)) },
    namespaceTerminating: false,
    image: "outrider:1",
    upgrades: () => NO_UPGRADES,
    others: () => input.others ?? [],
    holdersOf: (address) => (input.holders?.[address] === undefined ? [] : [input.holders[address]]),
    acceptedSpecOf: ({ metadata }) => (metadata.uid === policy.metadata.uid ? input.kept : undefined),
    grants: parseGrants(JSON.stringify({ grants: input.grants ?? [] })),
    blockedCIDRs,
    children: {
      configMaps: new Map(),
      services: new Map(),
      deployments: new Map(deployments.map((one) => [one.metadata.name, one])),
      others: [],
    },
    proxies,
    requesting: (input.asking ?? []).map((metadata) => ({ pod: { metadata }, namespaceLabels: undefined })),
    injected: (input.injected ?? []).map((pod) => ({ metadata: { name: pod } })),
    nodes: (input.nodes ?? []).map(({ name: node, labels, annotations, ...rest }) => ({
      apiVersion: "v1",
      kind: "Node",
      metadata: { name: node, ...(labels && { labels }), ...(annotations && { annotations }) },
      ...rest,
    })),
  };
}

/** Marks the Deployments as applied with the settings of the spec, except those that are `changed`. */
function withStamps(facts: Facts, input: Input): Facts {
  const spec = input.kept ?? input.policy.spec;
  const provider = providerOf(spec);
  if (provider === undefined) return facts;
  const own = { ...facts, policy: { ...facts.policy, spec } };
  const units = unitsOf(own, resolveSpec(own, spec, provider), OPTIONS);
  const changed = new Set(
    (input.deployments ?? []).flatMap((entry) => (entry.changed ? [slotId(entry.address ?? "")] : [])),
  );
  const deployments = new Map(facts.children.deployments);
  for (const { name, label, objects } of units) {
    const actual = deployments.get(name);
    if (actual === undefined || changed.has(label)) continue;
    const stamp = { [ANNOTATION.applied]: objects[0]!.metadata.annotations![ANNOTATION.applied]! };
    const annotations = { ...actual.metadata.annotations, ...stamp };
    deployments.set(name, { ...actual, metadata: { ...actual.metadata, annotations } });
  }
  return { ...facts, children: { ...facts.children, deployments } };
}

function outputOf(input: Input): object {
  const facts = withStamps(factsOf(input), input);
  const plan = decide(facts, () => input.kept, OPTIONS);
  const { desired } = plan;
  const applied = { problem: input.problem, networkPolicy: input.networkPolicy };
  const status = statusOf(facts, { plan, applied, recorded: false, clusterDomain: "cluster.local" });
  const { correct = [], retire = [], clean = [] } = desired?.round.labels ?? {};
  const patches = [...correct, ...retire, ...clean];
  const configMaps = (desired?.objects ?? []) as ConfigMap[];
  const text = configMaps.find(({ data }) => data?.[DOCUMENT_KEY] !== undefined)?.data?.[DOCUMENT_KEY];
  return {
    document: text === undefined ? null : (JSON.parse(text) as object),
    objects: (desired?.objects ?? []).map(readable),
    removals: (desired?.removals ?? []).map(({ kind, metadata }) => `${kind} ${metadata.name}`),
    podLabels: Object.fromEntries(patches.map(({ pod, labels }) => [pod.metadata.name, labels])),
    status,
  };
}

/** An input, with the defaults that the API server writes. */
function readInput(file: string): Input {
  const input = parse(readFileSync(join(root, file), "utf8")) as Input;
  const stored = (policy: EgressPolicy): EgressPolicy => ({ ...policy, spec: withDefaults(policy.spec) });
  return {
    ...input,
    policy: stored(input.policy),
    ...(input.kept === undefined ? {} : { kept: withDefaults(input.kept) }),
    others: (input.others ?? []).map(stored),
  };
}

/** Forms of the published list that its own tests compare. */
const FORMS = ["ips.html", "ips.atom"];

/** Without what repeats the document or the published list. */
function readable(object: object): object {
  const rest = structuredClone(object) as ConfigMap;
  if (rest.data?.[DOCUMENT_KEY] !== undefined) rest.data[DOCUMENT_KEY] = "(the document above)";
  for (const form of FORMS) if (rest.data?.[form] !== undefined) rest.data[form] = "(the list above)";
  return rest;
}

const inputs = globSync("test/operator/golden/*.in.yaml", { cwd: root }).sort();

test("the folder has cases, and no result without its input", () => {
  assert.ok(inputs.length >= 20, `${inputs.length} cases`);
  const others = globSync("test/operator/golden/*", { cwd: root }).filter((file) => !inputs.includes(file));
  assert.deepEqual(others.sort(), inputs.map((file) => file.replace(".in.yaml", ".out.yaml")).sort());
});

for (const file of inputs) {
  test(`${file} gives the recorded result`, () => {
    const text = stringify(outputOf(readInput(file)), { lineWidth: 0 });
    const out = join(root, file.replace(".in.yaml", ".out.yaml"));
    if (process.env.UPDATE === "1") writeFileSync(out, text);
    assert.ok(existsSync(out), `${out} is missing: UPDATE=1 writes it`);
    assert.equal(text, readFileSync(out, "utf8"));
  });
}
