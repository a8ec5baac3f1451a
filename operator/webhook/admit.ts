import type { EgressPolicy } from "../api/egresspolicy.ts";
import { clientHost, LABEL, SERVICE_PORT } from "../api/names.ts";
import type { Injection, InjectionTarget } from "../injection/inject.ts";
import type { KubeObject } from "../kube/resource.ts";
import type { PodReview, Verdict } from "./review.ts";

/** What an admission is made of; injection itself is pure and comes from elsewhere. */
export interface AdmitParts {
  /** The policy, asked for live when the cache does not know it. @throws Refusal, or any error: the pod is not let through then */
  find(namespace: string, name: string): Promise<EgressPolicy | undefined>;
  /** The policy as its fleet runs it, and why that is not its newest spec. Default: as it is. */
  inForce?(policy: EgressPolicy): { policy: EgressPolicy; refused?: string | undefined };
  /** The policy that a pod names; undefined when it names none. */
  optIn(pod: KubeObject): string | undefined;
  inject(pod: KubeObject, target: InjectionTarget): Injection;
  tell(object: KubeObject, event: Injection["events"][number]): void;
  clusterDomain: string;
}

/** Something for whoever creates the pod to mend, said in one sentence. */
export class Refusal extends Error {}

/** The code that the API server passes on with a refusal: Forbidden, as its own admission plugins say. */
const REFUSED = 403;
/** As the CRD has it. */
const POLICY_NAME = /^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$/;
const MAX_SHOWN = 63;
/** The API server cuts warnings at 256. */
const MAX_WARNING_CHARS = 250;

/** What a pod's events are about: its controller, which lives longer and is looked at; a bare pod itself. */
export function subjectOf({ namespace, pod }: PodReview): KubeObject | undefined {
  const owner = pod.metadata.ownerReferences?.find(({ controller }) => controller === true);
  if (owner !== undefined) {
    const { apiVersion, kind, name, uid } = owner;
    return { apiVersion, kind, metadata: { name, namespace, uid } };
  }
  const { name, uid } = pod.metadata;
  if (!name) return undefined;
  return { apiVersion: "v1", kind: "Pod", metadata: { name, namespace, ...(uid === undefined ? {} : { uid }) } };
}

/** Decides about one pod. @throws whatever `find` and `inject` throw, besides a Refusal */
export async function admit(parts: AdmitParts, review: PodReview): Promise<Verdict> {
  try {
    return await decide(parts, review);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    return { refused: { code: REFUSED, message: error.message } };
  }
}

async function decide(parts: AdmitParts, review: PodReview): Promise<Verdict> {
  const { find, optIn, inject, tell, clusterDomain } = parts;
  const { namespace, pod, dryRun } = review;
  const name = optIn(pod);
  if (name === undefined) return {};
  const where = `${LABEL.policy} of the pod template`;
  if (!POLICY_NAME.test(name)) {
    throw new Refusal(`"${name.slice(0, MAX_SHOWN)}" is no name of an EgressPolicy; correct ${where}`);
  }
  const found = await find(namespace, name);
  if (found === undefined) {
    throw new Refusal(
      `EgressPolicy "${name}" does not exist in namespace "${namespace}"; create it there, or correct ${where}`,
    );
  }
  const host = clientHost({ name, namespace }, clusterDomain);
  const { policy, refused } = parts.inForce?.(found) ?? { policy: found };
  const { patch, warnings: said, events } = inject(pod, { policy, host, port: SERVICE_PORT });
  // sideEffects: NoneOnDryRun.
  const subject = dryRun ? undefined : subjectOf(review);
  if (subject !== undefined) for (const event of events) tell(subject, event);
  const warnings = [...said];
  if (refused !== undefined) {
    const before = policy === found ? "" : ", the pod is injected by what was accepted before";
    const message = `outrider: EgressPolicy "${name}" is not accepted${before}: ${refused}`;
    warnings.push(message.slice(0, MAX_WARNING_CHARS));
  }
  if (policy.metadata.deletionTimestamp !== undefined) {
    warnings.push(`EgressPolicy "${name}" is being deleted, and stays as long as pods use it`);
  }
  return { patch, warnings };
}
