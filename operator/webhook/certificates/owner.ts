import { RESOURCE } from "../../api/kinds.ts";
import type { Client } from "../../kube/client.ts";
import { apiVersionOf, type KubeObject, type OwnerReference } from "../../kube/resource.ts";

/**
 * Owner reference to the operator's own Deployment. Garbage collection deletes the owned objects with it
 * (kubernetes.io, "Owners and Dependents"), so that an uninstall removes everything. @throws ApiError if the Deployment
 * does not exist
 */
export async function readOwner(client: Client, namespace: string, name: string): Promise<OwnerReference> {
  const { deployment } = RESOURCE;
  const { metadata } = await client.get<KubeObject>(deployment, name, namespace, { metadataOnly: true });
  return { apiVersion: apiVersionOf(deployment), kind: deployment.kind, name, uid: metadata.uid! };
}
