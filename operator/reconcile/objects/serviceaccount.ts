import type { EgressPolicy } from "../../api/egresspolicy.ts";
import { childName } from "../../api/names.ts";
import { childMeta } from "../../fleet/metadata.ts";
import type { KubeObject } from "../../kube/resource.ts";

/** Who the proxies are: nobody with a token, since they never talk to the API server. */
export function proxyAccount(policy: EgressPolicy): KubeObject {
  const metadata = childMeta(policy, childName.fleet(policy.metadata.name));
  return { apiVersion: "v1", kind: "ServiceAccount", metadata, automountServiceAccountToken: false } as KubeObject;
}
