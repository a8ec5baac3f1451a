import { isDeepStrictEqual } from "node:util";
import { type Container, isSet, type JsonPatch, literal, type PodLike, variable } from "./pod.ts";
import type { Chosen } from "./sidecars.ts";

/**
 * The authority of the proxies' certificate, for senders that speak TLS to the proxies. Injection sets it only in a
 * variable that adds roots. Variables such as SSL_CERT_FILE and REQUESTS_CA_BUNDLE replace the roots of a sender, which
 * could then verify no receiver.
 */

/** File with roots that Node adds to its own. Node logs a warning if the file does not exist, and continues. */
export const CA_NAME = "NODE_EXTRA_CA_CERTS";
const FOLDER = "/var/run/outrider/proxy-ca";
/** The mounted file, in PEM. */
export const CA_FILE = `${FOLDER}/ca.crt`;
const VOLUME = "outrider-proxy-ca";

/** Whether a container gets the file: it has no other one in the variable. */
export const takesAuthority = (container: Container): boolean =>
  !isSet(variable(container, CA_NAME)) || literal(container, CA_NAME) === CA_FILE;

/** Mounts the volume in a container. */
export function mountPatch({ path, container: { volumeMounts } }: Chosen): JsonPatch[] {
  if (volumeMounts?.some(({ name }) => name === VOLUME)) return [];
  const mount = { name: VOLUME, mountPath: FOLDER, readOnly: true };
  const all = `${path}/volumeMounts`;
  return [
    volumeMounts === undefined
      ? { op: "add", path: all, value: [mount] }
      : { op: "add", path: `${all}/-`, value: mount },
  ];
}

/**
 * Adds the volume to a pod. It has the authority only, and no key. It is empty if the Secret has no `ca.crt`, as with
 * certificates of a public authority.
 */
export function volumePatch({ spec }: PodLike, secretName: string): JsonPatch[] {
  // The API server writes the default of defaultMode before it calls the webhook.
  const secret = { secretName, items: [{ key: "ca.crt", path: "ca.crt" }], defaultMode: 0o644, optional: true };
  const volume = { name: VOLUME, secret };
  const path = "/spec/volumes";
  if (spec?.volumes === undefined) return [{ op: "add", path, value: [volume] }];
  const at = spec.volumes.findIndex(({ name }) => name === VOLUME);
  if (at === -1) return [{ op: "add", path: `${path}/-`, value: volume }];
  return isDeepStrictEqual(spec.volumes[at], volume) ? [] : [{ op: "replace", path: `${path}/${at}`, value: volume }];
}
