import { RESOURCE } from "../../api/kinds.ts";
import type { Client } from "../../kube/client.ts";
import { apiVersionOf, type KubeObject, type OwnerReference } from "../../kube/resource.ts";

/**
 * The operator's own Deployment as an owner: garbage collection deletes what it owns with it (kubernetes.io, "Owners
 * and Dependents"), so that an uninstall leaves nothing behind. @throws ApiError when it is not there
 */
export async function readOwner(client: Client, namespace: string, name: string): Promise<OwnerReference> {
  const { deployment } = RESOURCE;
  const { metadata } = await client.get<KubeObject>(deployment, name, namespace, { metadataOnly: true });
  return { apiVersion: apiVersionOf(deployment), kind: deployment.kind, name, uid: metadata.uid! };
}
