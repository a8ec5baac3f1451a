import type { EgressPolicy, EgressPolicySpec } from "../../operator/api/egresspolicy.ts";
import { ANNOTATION, LABEL } from "../../operator/api/names.ts";
import type { Deployment, Node, Pod, Service } from "../../operator/api/objects.ts";
import { isReady } from "../../operator/api/objects.ts";
import type { ProxyFacts, ProxyStatus } from "../../operator/fleet/proxy-status.ts";
import { SHARED } from "../../operator/fleet/slots.ts";
import type { KubeObject } from "../../operator/kube/resource.ts";
import { parseGrants } from "../../operator/providers/grants.ts";
import { decide, type Plan } from "../../operator/reconcile/decision/decide.ts";
import type { Facts, OtherUpgrades } from "../../operator/reconcile/facts/facts.ts";
import type { PublishedList } from "../../operator/reconcile/objects/published/list.ts";
import { withDefaults } from "../harness/defaults.ts";

/**
 * Fleets for tests of decisions: what the operator itself would have created for a spec, with pods that run the
 * templates.
 */

export const NOW = Date.parse("2026-03-01T12:00:00.000Z");
export const MINUTE = 60_000;
export const at = (time: number) => new Date(time).toISOString();
export const LONG_AGO = at(NOW - 600 * MINUTE);
export const OPTIONS = {
  image: "outrider:1",
  imagePullPolicy: "IfNotPresent" as const,
  imagePullSecrets: [],
  adminFrom: undefined,
};
export const NO_UPGRADES: OtherUpgrades = {
  ...{ limit: 5, progressing: 0, failed: [], deadline: undefined, reserved: false },
};
/** Configuration of the operator for {@link gather}. */
export const AROUND = { image: OPTIONS.image, upgrades: { others: () => NO_UPGRADES } };
export const [A, B, C] = ["203.0.113.20", "203.0.113.21", "203.0.113.22"] as const;
export const NAME = "webhooks";
export const VERIFIED = LABEL.verified;

export type Provider = "External" | "NodeAddress" | "KubeVIP";
export type Ip = string | { address: string; phase: string };
export const specOf = (provider: Provider, ips: readonly Ip[], proxy: object = {}): EgressPolicySpec =>
  withDefaults({
    nat: { provider, ...(provider === "KubeVIP" ? { kubeVIP: {} } : {}) },
    staticIPs: ips.map((ip) => (typeof ip === "string" ? { address: ip } : ip)),
    authentication: { mode: "Basic", secretRef: { name: "passwords" } },
    ...(Object.keys(proxy).length === 0 ? {} : { proxy }),
  });
export const edited = { podAnnotations: { edition: "2" } };
export const retiring = (address: string) => ({ address, phase: "Retiring" });
export const pending = (address: string) => ({ address, phase: "Pending" });

export const node = (name: string, address: string): Node => ({
  apiVersion: "v1",
  kind: "Node",
  metadata: { name },
  status: { addresses: [{ type: "InternalIP", address }] },
});
export const NODES = [node("a", A), node("b", B), node("c", C)];

export interface World {
  deployments: Map<string, Deployment>;
  services: Map<string, Service>;
  /** The recorded list of published addresses. */
  published: PublishedList | undefined;
  proxies: ProxyFacts[];
  now: number;
  /** Status of the policy. */
  status?: EgressPolicy["status"];
}

export function factsOf(world: World, spec: EgressPolicySpec): Facts {
  const policy = {
    apiVersion: "egress.outrider.dev/v1alpha1",
    kind: "EgressPolicy",
    metadata: { name: NAME, namespace: "convoy", uid: "1", generation: 2 },
    spec,
    ...(world.status === undefined ? {} : { status: world.status }),
  } as EgressPolicy;
  const { deployments, services, published, proxies, now } = world;
  return {
    now,
    policy,
    namespaceTerminating: false,
    image: "outrider:1",
    upgrades: () => NO_UPGRADES,
    others: () => [],
    holdersOf: () => [],
    acceptedSpecOf: () => undefined,
    grants: parseGrants(
      JSON.stringify({
        grants: [{ namespaces: ["*"], providers: ["NodeAddress", "KubeVIP"], staticIPs: ["203.0.113.0/24"] }],
      }),
    ),
    blockedCIDRs: [],
    record: { spec: undefined, published },
    children: { configMaps: new Map(), services, deployments, others: [] },
    proxies,
    requesting: [],
    injected: [],
    nodes: NODES,
  };
}

export const plan = (world: World, spec: EgressPolicySpec): Plan =>
  decide(factsOf(world, spec), () => undefined, OPTIONS);
export const empty = (): World => ({
  deployments: new Map(),
  services: new Map(),
  published: undefined,
  proxies: [],
  now: NOW,
});

export const open = (source: string | undefined): ProxyStatus => ({
  hash: "sha256:1",
  policyError: null,
  ready: true,
  sources: source === undefined ? [] : [{ address: source, assigned: true }],
  proofs: [],
});

/** Marks a Deployment as rolled out. */
export function rolledOut(deployment: Deployment): Deployment {
  const replicas = deployment.spec?.replicas ?? 1;
  const generation = 3;
  const conditions = [
    { type: "Progressing", status: "True", reason: "NewReplicaSetAvailable", lastUpdateTime: LONG_AGO },
  ];
  return {
    ...deployment,
    metadata: { ...deployment.metadata, generation, creationTimestamp: LONG_AGO },
    status: {
      observedGeneration: generation,
      ...{ replicas, updatedReplicas: replicas, availableReplicas: replicas },
      conditions,
    },
  };
}

/** A ready pod of a Deployment that serves. */
export function podOf(deployment: Deployment, since: string = LONG_AGO): ProxyFacts {
  const { metadata, spec } = deployment as unknown as {
    metadata: KubeObject["metadata"];
    spec: { template: { metadata: { labels: Record<string, string> }; spec: Pod["spec"] } };
  };
  const slot = metadata.labels![LABEL.slot]!;
  const address = metadata.annotations?.[ANNOTATION.address];
  const verified = spec.template.spec?.containers?.[0]?.args?.includes("--readiness=policy")
    ? { [VERIFIED]: "true" }
    : {};
  const pod: Pod = {
    apiVersion: "v1",
    kind: "Pod",
    metadata: {
      name: `${metadata.name}-1`,
      labels: { ...spec.template.metadata.labels, ...verified },
      creationTimestamp: since,
    },
    spec: { ...spec.template.spec, hostNetwork: slot !== SHARED },
    status: { phase: "Running", conditions: [{ type: "Ready", status: "True", lastTransitionTime: since }] },
  };
  const ready = isReady(pod);
  return {
    ...{ pod, slot, ready, node: "a", ips: [], terminating: false, error: undefined, polled: true, outdated: false },
    status: open(address),
  };
}

/** Takes over what a reconcile writes. Changed Deployments are rolled out, and their pods replaced, if `roll`. */
export function apply(world: World, spec: EgressPolicySpec, roll: (name: string) => boolean = () => true): World {
  const { desired } = plan(world, spec);
  const next: World = {
    ...world,
    deployments: new Map(world.deployments),
    services: new Map(world.services),
    published: desired!.published.json,
  };
  for (const object of desired!.objects) {
    const { name } = object.metadata;
    if (object.kind === "Service") next.services.set(name, object as Service);
    if (object.kind !== "Deployment") continue;
    const before = world.deployments.get(name);
    if (stampOf(before) === stampOf(object)) continue;
    next.deployments.set(name, rolledOut(object as Deployment));
    next.proxies = next.proxies.filter(({ pod }) => pod.metadata.name !== `${name}-1`);
    if (roll(name)) next.proxies = [...next.proxies, podOf(next.deployments.get(name)!)];
  }
  for (const { kind, metadata } of desired!.removals) {
    if (kind !== "Deployment") continue;
    next.deployments.delete(metadata.name);
    next.proxies = next.proxies.filter(({ pod }) => pod.metadata.name !== `${metadata.name}-1`);
  }
  return next;
}
export const stampOf = (object: KubeObject | undefined) => object?.metadata.annotations?.[ANNOTATION.applied];

/** A settled fleet of a spec. */
export const settled = (spec: EgressPolicySpec): World => apply(empty(), spec);

/** Changes facts of proxies. */
export const withProxies = (world: World, change: (proxy: ProxyFacts) => Partial<ProxyFacts>): World => ({
  ...world,
  proxies: world.proxies.map((proxy) => ({ ...proxy, ...change(proxy) })),
});
export const unpolled = (world: World) => withProxies(world, () => ({ polled: false, status: undefined }));
