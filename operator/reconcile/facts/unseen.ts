import type { EgressPolicy } from "../../api/egresspolicy.ts";
import { RESOURCE } from "../../api/kinds.ts";
import { LABEL } from "../../api/names.ts";
import type { Client } from "../../kube/client.ts";
import { fleetSelector, RUNNING } from "./caches.ts";

/** Live lists, for decisions that depend on pods which a cache does not have. */

/** Whether pods match selectors, besides known ones. @throws ApiError */
async function hasOthers(
  client: Pick<Client, "pages">,
  { metadata: { namespace } }: EgressPolicy,
  selectors: { labelSelector: string; fieldSelector: string },
  known: ReadonlySet<string | undefined>,
): Promise<boolean> {
  const scope = { namespace, ...selectors, metadataOnly: true };
  for await (const { items } of client.pages(RESOURCE.pod, scope)) {
    if (items.some(({ metadata }) => !known.has(metadata.uid))) return true;
  }
  return false;
}

/** Whether pods use a policy. @throws ApiError */
export function hasInjectedPods(client: Pick<Client, "pages">, policy: EgressPolicy): Promise<boolean> {
  const labelSelector = `${LABEL.injected}=${policy.metadata.name}`;
  return hasOthers(client, policy, { labelSelector, fieldSelector: RUNNING }, new Set());
}

/** Whether a fleet has other pods on nodes than the known ones (uids). @throws ApiError */
export function hasOtherProxies(
  client: Pick<Client, "pages">,
  policy: EgressPolicy,
  known: ReadonlySet<string | undefined>,
): Promise<boolean> {
  const labelSelector = `${fleetSelector},${LABEL.fleet}=${policy.metadata.name}`;
  return hasOthers(client, policy, { labelSelector, fieldSelector: `${RUNNING},spec.nodeName!=` }, known);
}
