import type { EgressPolicy } from "../../api/egresspolicy.ts";
import { RESOURCE } from "../../api/kinds.ts";
import { LABEL } from "../../api/names.ts";
import type { Client } from "../../kube/client.ts";
import { fleetSelector, RUNNING } from "./caches.ts";

/** Live lists, for decisions that depend on pods which a cache does not have. */

/** Whether pods that have not ended match a selector, besides known ones. @throws ApiError */
async function hasOthers(
  client: Pick<Client, "pages">,
  { metadata: { namespace } }: EgressPolicy,
  labelSelector: string,
  known: ReadonlySet<string | undefined>,
): Promise<boolean> {
  const scope = { namespace, labelSelector, fieldSelector: RUNNING, metadataOnly: true };
  for await (const { items } of client.pages(RESOURCE.pod, scope)) {
    if (items.some(({ metadata }) => !known.has(metadata.uid))) return true;
  }
  return false;
}

/** Whether pods use a policy. @throws ApiError */
export function hasInjectedPods(client: Pick<Client, "pages">, policy: EgressPolicy): Promise<boolean> {
  return hasOthers(client, policy, `${LABEL.injected}=${policy.metadata.name}`, new Set());
}

/** Whether a fleet has other pods than the known ones (uids). @throws ApiError */
export function hasOtherProxies(
  client: Pick<Client, "pages">,
  policy: EgressPolicy,
  known: ReadonlySet<string | undefined>,
): Promise<boolean> {
  return hasOthers(client, policy, `${fleetSelector},${LABEL.fleet}=${policy.metadata.name}`, known);
}
