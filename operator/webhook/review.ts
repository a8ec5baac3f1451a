import { RESOURCE } from "../api/kinds.ts";
import type { JsonPatch } from "../injection/inject.ts";
import { isMapping } from "../kube/mapping.ts";
import type { KubeObject } from "../kube/resource.ts";

/** Reads requests and writes responses of AdmissionReview (admission.k8s.io/v1). Pure. */

/** Request of the API server to review a pod that is being created. */
export interface PodReview {
  uid: string;
  namespace: string;
  dryRun: boolean;
  pod: KubeObject;
}

/** Request of the API server to review an edit of a policy, which is not validated yet. */
export interface EditReview {
  uid: string;
  before: unknown;
  now: unknown;
}

/** A parsed review: of a pod that is being created, of an edit of a policy, or of another object. */
type Review =
  | { kind: "pod"; review: PodReview }
  | { kind: "edit"; review: EditReview }
  | { kind: "other"; uid: string };

const API_VERSION = "admission.k8s.io/v1";
/** Characters of a quoted value. */
const MAX_SHOWN = 80;

const shown = (value: unknown): string => (JSON.stringify(value) ?? "nothing").slice(0, MAX_SHOWN);

function isPolicy({ group, resource }: Record<string, unknown>, subResource: unknown): boolean {
  return group === RESOURCE.policy.group && resource === RESOURCE.policy.plural && (subResource ?? "") === "";
}

/** Parses the body of a request. Anything unknown is an error. */
export function readReview(body: string): Review | { error: string } {
  const bad = (error: string) => ({ error });
  let value: unknown;
  try {
    value = JSON.parse(body);
  } catch {
    return bad("the body is not JSON");
  }
  if (!isMapping(value)) return bad("the body is not a JSON object");
  if (value.kind !== "AdmissionReview") return bad(`kind must be AdmissionReview, not ${shown(value.kind)}`);
  if (value.apiVersion !== API_VERSION) return bad(`apiVersion must be ${API_VERSION}, not ${shown(value.apiVersion)}`);
  const { request } = value;
  if (!isMapping(request)) return bad("request is missing");
  const { uid, resource, operation, namespace, object, subResource, dryRun } = request;
  if (typeof uid !== "string" || uid === "") return bad("request.uid must be a text");
  if (typeof operation !== "string") return bad("request.operation must be a text");
  if (!isMapping(resource)) return bad("request.resource is missing");
  if (dryRun !== undefined && typeof dryRun !== "boolean") return bad("request.dryRun must be true or false");
  if (isPolicy(resource, subResource) && operation === "UPDATE") {
    return { kind: "edit", review: { uid, before: request.oldObject, now: object } };
  }
  const isPod = resource.group === "" && resource.resource === "pods" && (subResource ?? "") === "";
  if (!isPod || operation !== "CREATE") return { kind: "other", uid };
  if (typeof namespace !== "string" || namespace === "") return bad("request.namespace must be a text");
  if (resource.version !== "v1") return bad(`request.resource.version must be v1, not ${shown(resource.version)}`);
  if (!isMapping(object)) return bad("request.object is missing");
  const { metadata, spec } = object;
  if (!isMapping(metadata)) return bad("request.object.metadata is missing");
  if (!isMapping(spec) || !Array.isArray(spec.containers)) return bad("request.object.spec.containers is missing");
  return { kind: "pod", review: { uid, namespace, dryRun: dryRun === true, pod: object as unknown as KubeObject } };
}

/** Answer to a review. */
export interface AdmissionAnswer {
  patch?: readonly JsonPatch[];
  warnings?: readonly string[];
  /** Why the pod is rejected; absent if it is allowed. */
  refused?: { code: number; message: string };
}

/** Serializes an answer. */
export function writeReview(uid: string, { patch = [], warnings = [], refused }: AdmissionAnswer): string {
  const response = {
    uid,
    allowed: refused === undefined,
    ...(warnings.length === 0 ? {} : { warnings }),
    ...(refused === undefined ? {} : { status: refused }),
    ...(refused !== undefined || patch.length === 0
      ? {}
      : { patchType: "JSONPatch", patch: Buffer.from(JSON.stringify(patch)).toString("base64") }),
  };
  return JSON.stringify({ apiVersion: API_VERSION, kind: "AdmissionReview", response });
}
