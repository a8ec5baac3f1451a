import type { EgressPolicy } from "../api/egresspolicy.ts";
import { RESOURCE } from "../api/kinds.ts";
import { ApiError, type Client } from "../kube/client.ts";
import { Refusal } from "./admit.ts";

/** Within what the API server gives an admission: 5 s, and at least 4 by the chart. */
const ASK_MS = 3000;

/**
 * Finds the policy that a pod names: in the cache, else live, since it may have been created a moment ago together with
 * the pod. `namespaces`: those that count; empty: all.
 */
export function makeFind(
  cache: { get(key: string): EgressPolicy | undefined },
  client: Client,
  namespaces: readonly string[],
): (namespace: string, name: string) => Promise<EgressPolicy | undefined> {
  return async (namespace, name) => {
    if (namespaces.length > 0 && !namespaces.includes(namespace)) {
      throw new Refusal(`this operator does not look after namespace "${namespace}"; add it to --namespaces`);
    }
    const cached = cache.get(`${namespace}/${name}`);
    if (cached !== undefined) return cached;
    try {
      return await client.get<EgressPolicy>(RESOURCE.policy, name, namespace, { timeoutMs: ASK_MS });
    } catch (error) {
      if (error instanceof ApiError && error.code === 404) return undefined;
      throw error;
    }
  };
}
