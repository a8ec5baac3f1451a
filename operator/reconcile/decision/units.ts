import type { EgressPolicy, EgressPolicySpec } from "../../api/egresspolicy.ts";
import { ANNOTATION, childName } from "../../api/names.ts";
import { SHARED, type Slot, slotsOf } from "../../fleet/slots.ts";
import type { KubeObject } from "../../kube/resource.ts";
import { providerOf } from "../../providers/index.ts";
import { type FleetShape, isOnNode, servingLabels } from "../../providers/provider.ts";
import type { Facts } from "../facts/facts.ts";
import { stamp } from "../objects/compare.ts";
import { type ProxyPods, proxyDeployment } from "../objects/deployment.ts";
import { enforcesReplicas, replicasSetBy } from "../objects/replicas.ts";
import { shortHash } from "../objects/upgrade-marks.ts";
import { selectorOf } from "../placement/nodes.ts";
import { affinityOf } from "../placement/placement.ts";
import { type ResolvedSpec, wantedSlots } from "./resolved-spec.ts";

/** Settings of proxy pods from the configuration of the operator. */
export interface FleetOptions {
  image: string;
  imagePullPolicy: ProxyPods["imagePullPolicy"];
  imagePullSecrets: ProxyPods["imagePullSecrets"];
  /** Namespaces whose pods reach the admin ports of proxies; undefined: no restriction. */
  adminFrom: readonly string[] | undefined;
}

/** Proxies that change together: a slot, or the one Deployment of a fleet without slots. */
export interface Unit {
  /** Undefined: the fleet has no slots. */
  slot: Slot | undefined;
  /** Value of the slot label of its pods. */
  label: string;
  /** Name of its Deployment. */
  name: string;
  /** Stamped objects: the Deployment, then the others of the slot. */
  objects: KubeObject[];
  /** Whether it exists with other settings. */
  changes: boolean;
}

/** Name of a unit in messages. */
export const unitName = ({ slot, name }: Pick<Unit, "slot" | "name">): string =>
  slot === undefined ? name : `slot ${slot.id} (${slot.address})`;

const DEFAULT_REPLICAS = 2;

/** Readiness and labels of pods by the shape of their fleet. */
function readinessOf(shape: FleetShape): Pick<ProxyPods, "readiness" | "labels"> {
  switch (shape.kind) {
    case "Deployment":
      return { readiness: "verified", labels: servingLabels(shape) };
    case "Slots":
      switch (shape.address) {
        case "on-node":
          return { readiness: "verified", labels: servingLabels(shape) };
        case "follows-ready-pod":
          // The label follows the proof, so it is set later.
          return { readiness: "policy", labels: {} };
      }
  }
}

/** Deployment of a slot, or the one Deployment of a fleet without slots. */
function deploymentOf(
  facts: Facts,
  { spec, provider, placements }: Pick<ResolvedSpec, "spec" | "provider" | "placements">,
  slot: Slot | undefined,
  { image, imagePullPolicy, imagePullSecrets }: FleetOptions,
): KubeObject {
  const { policy, children } = facts;
  const { shape } = provider;
  const shared = {
    ...{ image: spec.proxy?.image ?? image, imagePullPolicy, imagePullSecrets, ...readinessOf(shape) },
    annotations: provider.podAnnotations(spec),
    nodeSelector: selectorOf(spec).labels,
    eager: isOnNode(shape),
  };
  if (slot !== undefined) {
    const name = childName.slot(policy.metadata.name, slot.id);
    const placement = placements.get(slot.id);
    const nodeAffinity = placement === undefined ? undefined : affinityOf(facts, spec, placement, name);
    return proxyDeployment(policy, spec, { ...shared, slot, replicas: 1, nodeAffinity });
  }
  const actual = children.deployments.get(childName.fleet(policy.metadata.name));
  const foreign = actual !== undefined && replicasSetBy(actual) !== undefined && !enforcesReplicas(policy);
  const replicas = spec.proxy?.replicas ?? DEFAULT_REPLICAS;
  return proxyDeployment(policy, spec, { ...shared, ...(foreign ? {} : { replicas }), nodeAffinity: undefined });
}

const SAMPLE = { name: "sample" };
const SAMPLE_FILE = { kind: "ConfigMap", name: "sample", key: "sample" };

/** Specs that use every part of pod templates which is not the owner's. */
const SAMPLES: readonly EgressPolicySpec[] = (["External", "NodeAddress", "KubeVIP"] as const).map(
  (provider) =>
    ({
      nat: { provider },
      staticIPs: [{ address: "192.0.2.1" }],
      authentication: { mode: "BasicOrTLS", secretRef: { name: "sample" } },
      upstreamProxy: { url: "http://192.0.2.1:1", secretRef: SAMPLE, resolve: "Local" },
      proxy: {
        tls: { port: 1024, secretRef: SAMPLE, clientCA: SAMPLE_FILE, clientName: "URI", crl: SAMPLE_FILE },
        external: { port: 1025, sourceRanges: ["192.0.2.0/24"], proxyProtocolFrom: ["192.0.2.0/24"] },
      },
    }) as EgressPolicySpec,
);

function fingerprint(options: FleetOptions): string {
  const policy = { metadata: { name: "sample", namespace: "sample", uid: "sample" } } as EgressPolicy;
  const children = { configMaps: new Map(), services: new Map(), deployments: new Map(), others: [] };
  const facts = { policy, children } as Partial<Facts> as Facts;
  const templates = SAMPLES.flatMap((spec) => {
    const resolved = { spec, provider: providerOf(spec)!, slots: slotsOf(spec), placements: new Map() };
    return wantedSlots(resolved).map((slot) => deploymentOf(facts, resolved, slot, options));
  });
  return shortHash(templates);
}

const fingerprints = new WeakMap<FleetOptions, string>();

/**
 * Fingerprint of what an operator adds to pod templates by its version and its options: a hash of its templates for fixed
 * specs. An upgrade that changes no template has the same one. Computed once.
 */
export function templateFingerprint(options: FleetOptions): string {
  const known = fingerprints.get(options) ?? fingerprint(options);
  fingerprints.set(options, known);
  return known;
}

const stampOf = ({ metadata }: KubeObject) => metadata.annotations?.[ANNOTATION.applied];

/** Pure: the desired proxies of an accepted spec, in the order of the spec. */
export function unitsOf(facts: Facts, resolved: ResolvedSpec, options: FleetOptions): Unit[] {
  const { policy, children } = facts;
  return wantedSlots(resolved).map((slot): Unit => {
    const deployment = stamp(deploymentOf(facts, resolved, slot, options));
    const { name } = deployment.metadata;
    const others = slot === undefined ? [] : resolved.provider.slotObjects(policy, resolved.spec, slot).map(stamp);
    const changes = [
      [children.deployments.get(name), deployment] as const,
      ...others.map((object) => [children.services.get(object.metadata.name), object] as const),
    ].some(([actual, object]) => actual !== undefined && stampOf(actual) !== stampOf(object));
    return { slot, label: slot?.id ?? SHARED, name, objects: [deployment, ...others], changes };
  });
}
