import { createHash } from "node:crypto";
import type { EgressPolicy, EgressPolicySpec } from "../../api/egresspolicy.ts";
import { ANNOTATION, LABEL, REASON, UPGRADE } from "../../api/names.ts";
import { type Deployment, isSeen } from "../../api/objects.ts";
import type { Slot } from "../../fleet/slots.ts";
import type { KubeObject } from "../../kube/resource.ts";

/** Deadline of a Deployment that sets none, in seconds (the API server's default). */
const DEFAULT_DEADLINE_SECONDS = 600;

/** Marks of a Deployment: from which settings its pod template is. They are not part of its stamp. */
export interface Marks {
  /** Fingerprint of the operator's part of pod templates. */
  operator: string;
  /** `generation-hash` of the owner's part. */
  owner: string;
  /** An {@link UPGRADE}; undefined before the first one. */
  upgrade: string | undefined;
  /** Start of the last upgrade (RFC 3339). */
  upgradedAt: string | undefined;
}

/** Marks of a stored Deployment. One of an older version has none. */
export function marksOf({ metadata }: Deployment): { [Mark in keyof Marks]: Marks[Mark] | undefined } {
  return {
    operator: metadata.labels?.[LABEL.operatorSettings],
    owner: metadata.labels?.[LABEL.ownerSettings],
    upgrade: metadata.labels?.[LABEL.upgrade],
    upgradedAt: metadata.annotations?.[ANNOTATION.upgradedAt],
  };
}

/** A Deployment with marks. */
export function withMarks<T extends KubeObject>(object: T, { operator, owner, upgrade, upgradedAt }: Marks): T {
  const { labels, annotations } = object.metadata;
  const metadata = {
    ...object.metadata,
    labels: {
      ...labels,
      [LABEL.operatorSettings]: operator,
      [LABEL.ownerSettings]: owner,
      ...(upgrade === undefined ? {} : { [LABEL.upgrade]: upgrade }),
    },
    annotations: { ...annotations, ...(upgradedAt === undefined ? {} : { [ANNOTATION.upgradedAt]: upgradedAt }) },
  };
  return { ...object, metadata };
}

/** Short hash of a JSON value. */
export const shortHash = (value: unknown): string =>
  createHash("sha256").update(JSON.stringify(value)).digest("hex").slice(0, 12);

/**
 * The owner's part of the pod template of a slot, or of a fleet without slots: the generation of the policy, and a hash of
 * the fields that templates depend on. A generation that is the same shows that the owner changed nothing, even if a new
 * version of the CRD adds a default. A hash that is the same shows that an edit does not concern the template.
 */
export function ownerSettings(policy: EgressPolicy, spec: EgressPolicySpec, slot: Slot | undefined): string {
  const { proxy, nat, authentication } = spec;
  const addresses = slot === undefined ? spec.staticIPs : [slot.address, slot.source];
  return `${policy.metadata.generation ?? 0}-${shortHash({ proxy, nat, authentication, addresses })}`;
}

/** Whether the owner has changed the settings of a template since another one was written. */
export function isOwnersChange(before: string, now: string): boolean {
  const [generation, hash] = before.split("-");
  const [newGeneration, newHash] = now.split("-");
  return generation !== newGeneration && hash !== newHash;
}

/** Whether an upgrade of a Deployment is in progress. */
export function isUpgrading(deployment: Deployment): boolean {
  return marksOf(deployment).upgrade === UPGRADE.progressing;
}

/** Progress of the upgrade of a fleet. */
export interface FleetUpgrade {
  /** The fleet did not become ready within the progress deadline, with the settings of this operator. */
  failed: boolean;
  /** When it fails without progress, in milliseconds since the epoch. */
  deadline: number;
}

const progressOf = ({ status }: Deployment) => status?.conditions?.find(({ type }) => type === "Progressing");

/** When a Deployment misses its deadline, in milliseconds since the epoch. A time that is not valid counts as long ago. */
function deadlineOf(deployment: Deployment): number {
  const times = [marksOf(deployment).upgradedAt, progressOf(deployment)?.lastUpdateTime];
  const latest = Math.max(...times.map((time) => (time === undefined ? 0 : Date.parse(time) || 0)));
  return latest + (deployment.spec?.progressDeadlineSeconds ?? DEFAULT_DEADLINE_SECONDS) * 1000;
}

/**
 * Progress of the upgrade of a fleet; undefined if none is in progress. `operator`: fingerprint of this operator. A slot
 * that is complete may wait for others, so the last change of all slots counts. Pure.
 */
export function upgradeOf(deployments: readonly Deployment[], operator: string, now: number): FleetUpgrade | undefined {
  const upgrading = deployments.filter(isUpgrading);
  if (upgrading.length === 0) return undefined;
  const deadline = Math.max(...upgrading.map(deadlineOf));
  const own = upgrading.filter((one) => marksOf(one).operator === operator);
  // Before the controller has seen the new template, the condition is that of an older one.
  const hasFailed = (one: Deployment) => isSeen(one) && progressOf(one)?.reason === REASON.deadlineExceeded;
  return { failed: own.length > 0 && (deadline <= now || own.some(hasFailed)), deadline };
}
