import { DEFAULT_CLIENT, readsPasswords } from "../../proxy/policy/clients.ts";
import type { Who } from "../../proxy/policy/engine.ts";
import type { EgressPolicySpec } from "../api/egresspolicy.ts";
import { ANNOTATION } from "../api/names.ts";
import type { PodLike } from "./pod.ts";
import { PRESETS } from "./presets.ts";

/** Which client of a policy a pod is. Pure. */

type Metadata = Pick<PodLike, "metadata">;

/** Client name from the annotation of the pod. */
export function clientOf({ metadata }: Metadata): string | undefined {
  return metadata.annotations?.[ANNOTATION.client]?.trim() || undefined;
}

/** Whether a client name is a valid key of a Secret. */
export function isClientName(client: string): boolean {
  return client.length <= 253 && /^[-._A-Za-z0-9]+$/.test(client);
}

/** Whether injected senders prove their name by a password. */
export const takesPasswords = ({ authentication }: EgressPolicySpec): boolean => readsPasswords(authentication.mode);

/** Whether the proxies refuse senders without a client certificate, which injection does not set. */
export const needsCertificate = ({ authentication }: EgressPolicySpec): boolean =>
  authentication.mode === "TLS" && authentication.allowMissing !== true;

/** Identity of an injected pod at the proxies. */
export function whoOf(pod: Metadata, spec: EgressPolicySpec): Who {
  if (!takesPasswords(spec) || PRESETS[spec.preset].cannotAuthenticate !== undefined) return { kind: "missing" };
  const name = clientOf(pod);
  return name === undefined ? { kind: "shared" } : { kind: "own", name };
}

/** Whether a policy has clients, but not this one. */
export function isUnlisted(client: string | undefined, { clients }: EgressPolicySpec): client is string {
  return client !== undefined && clients !== undefined && !clients.some(({ name }) => name === client);
}

/** Whether no entry of `spec.clients` applies to a pod. */
export function lacksEntry(pod: Metadata, spec: EgressPolicySpec): boolean {
  const { clients } = spec;
  if (clients === undefined) return false;
  const who = whoOf(pod, spec);
  return !clients.some(({ name }) => name === DEFAULT_CLIENT || (who.kind === "own" && name === who.name));
}

/** Whether the proxies refuse every request of an injected pod. */
export const isRefused = (pod: Metadata, spec: EgressPolicySpec): boolean =>
  needsCertificate(spec) || lacksEntry(pod, spec);
