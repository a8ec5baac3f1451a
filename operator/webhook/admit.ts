import type { EgressPolicy } from "../api/egresspolicy.ts";
import { ANNOTATION, clientHost, LABEL, SERVICE_PORT } from "../api/names.ts";
import { clientOf, isUnlisted } from "../injection/clients.ts";
import { type Injection, type InjectionTarget, MAX_WARNING_CHARS } from "../injection/inject.ts";
import type { KubeObject } from "../kube/resource.ts";
import type { AdmissionAnswer, PodReview } from "./review.ts";

/** Functions that an admission needs. */
export interface AdmitParts {
  /**
   * Finds a policy, live if the cache does not have it. @throws AdmissionRefusal, or any error: the pod is rejected
   * then
   */
  lookup(namespace: string, name: string): Promise<EgressPolicy | undefined>;
  /** The policy as its fleet runs it, and why this is not its newest spec. Default: the policy itself. */
  inForce?(policy: EgressPolicy): { policy: EgressPolicy; rejected?: string | undefined };
  /** Name of the policy that a pod requests. */
  optIn(pod: KubeObject): string | undefined;
  inject(pod: KubeObject, target: InjectionTarget): Injection;
  /** Records an event of an object. */
  record(object: KubeObject, event: Injection["events"][number]): void;
  clusterDomain: string;
}

/** Why a pod is rejected, in one sentence for the user who creates it. */
export class AdmissionRefusal extends Error {}

/** Status code of a rejection: Forbidden, as the admission plugins of the API server use. */
const REFUSED = 403;
/** Pattern of the CRD. */
const POLICY_NAME = /^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$/;
/** Characters of a quoted name. */
const MAX_NAME_SHOWN = 63;
/** Names of clients in a message. */
const MAX_CLIENTS_SHOWN = 10;

/** Object of a pod's events: its controller, where users see them, or a bare pod itself. */
function subjectOf({ namespace, pod }: PodReview): KubeObject | undefined {
  const owner = pod.metadata.ownerReferences?.find(({ controller }) => controller === true);
  if (owner !== undefined) {
    const { apiVersion, kind, name, uid } = owner;
    return { apiVersion, kind, metadata: { name, namespace, uid } };
  }
  const { name, uid } = pod.metadata;
  if (!name) return undefined;
  return { apiVersion: "v1", kind: "Pod", metadata: { name, namespace, ...(uid === undefined ? {} : { uid }) } };
}

/** Reviews one pod. @throws errors of `lookup` and `inject`, except AdmissionRefusal */
export async function admit(parts: AdmitParts, review: PodReview): Promise<AdmissionAnswer> {
  try {
    return await answer(parts, review);
  } catch (error) {
    if (!(error instanceof AdmissionRefusal)) throw error;
    return { refused: { code: REFUSED, message: error.message } };
  }
}

/** @throws AdmissionRefusal if the pod names a client that the policy does not have */
function refuseUnlisted(pod: PodReview["pod"], { spec, metadata }: EgressPolicy, rejected: string | undefined): void {
  const client = clientOf(pod);
  if (!isUnlisted(client, spec)) return;
  const names = (spec.clients ?? []).map(({ name }) => name);
  const rest = names.length > MAX_CLIENTS_SHOWN ? ` and ${names.length - MAX_CLIENTS_SHOWN} more` : "";
  const kept =
    rejected === undefined
      ? ""
      : `; the last accepted spec counts, since the newest one is not accepted: ${rejected.slice(0, MAX_WARNING_CHARS)}`;
  throw new AdmissionRefusal(
    `client "${client.slice(0, MAX_NAME_SHOWN)}" is not in spec.clients of EgressPolicy "${metadata.name}", which has ${names.slice(0, MAX_CLIENTS_SHOWN).join(", ")}${rest}; ` +
      `correct ${ANNOTATION.client} of the pod template, or add the client${kept}`,
  );
}

async function answer(parts: AdmitParts, review: PodReview): Promise<AdmissionAnswer> {
  const { lookup, optIn, inject, record, clusterDomain } = parts;
  const { namespace, pod, dryRun } = review;
  const name = optIn(pod);
  if (name === undefined) return {};
  const where = `${LABEL.policy} of the pod template`;
  if (!POLICY_NAME.test(name)) {
    throw new AdmissionRefusal(
      `"${name.slice(0, MAX_NAME_SHOWN)}" is not a valid name of an EgressPolicy; correct ${where}`,
    );
  }
  const found = await lookup(namespace, name);
  if (found === undefined) {
    throw new AdmissionRefusal(
      `EgressPolicy "${name}" does not exist in namespace "${namespace}"; create it there, or correct ${where}`,
    );
  }
  const host = clientHost({ name, namespace }, clusterDomain);
  const { policy, rejected } = parts.inForce?.(found) ?? { policy: found };
  refuseUnlisted(pod, policy, policy === found ? undefined : rejected);
  const { patch, warnings: notes, events } = inject(pod, { policy, host, port: SERVICE_PORT });
  // sideEffects: NoneOnDryRun.
  const subject = dryRun ? undefined : subjectOf(review);
  if (subject !== undefined) for (const event of events) record(subject, event);
  const warnings = [...notes];
  if (rejected !== undefined) {
    const before = policy === found ? "" : "; the pod gets the settings of the last accepted spec";
    const message = `outrider: EgressPolicy "${name}" is not accepted${before}: ${rejected}`;
    warnings.push(message.slice(0, MAX_WARNING_CHARS));
  }
  if (policy.metadata.deletionTimestamp !== undefined) {
    warnings.push(`EgressPolicy "${name}" is being deleted; it is kept while pods use it`);
  }
  return { patch, warnings };
}
