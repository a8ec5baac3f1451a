import type { EgressPolicy } from "../api/egresspolicy.ts";
import { RESOURCE } from "../api/kinds.ts";
import { ApiError, type Client } from "../kube/client.ts";
import { AdmissionRefusal } from "./admit.ts";

/** Timeout of a live lookup. The API server gives an admission 5 s. */
const LOOKUP_MS = 3000;

/**
 * Returns a function that finds the policy which a pod names. It asks the API server if the cache does not have the
 * policy, which may have been created together with the pod. `namespaces`: those of `--namespaces`; empty: all.
 */
export function makeLookup(
  cache: { get(key: string): EgressPolicy | undefined },
  client: Client,
  namespaces: readonly string[],
): (namespace: string, name: string) => Promise<EgressPolicy | undefined> {
  return async (namespace, name) => {
    if (namespaces.length > 0 && !namespaces.includes(namespace)) {
      throw new AdmissionRefusal(`this operator does not watch namespace "${namespace}"; add it to --namespaces`);
    }
    const cached = cache.get(`${namespace}/${name}`);
    if (cached !== undefined) return cached;
    try {
      return await client.get<EgressPolicy>(RESOURCE.policy, name, namespace, { timeoutMs: LOOKUP_MS });
    } catch (error) {
      if (error instanceof ApiError && error.code === 404) return undefined;
      throw error;
    }
  };
}
