import type { V1ServiceAccount } from "@kubernetes/client-node";
import type { EgressPolicy } from "../../api/egresspolicy.ts";
import { childName } from "../../api/names.ts";
import { childMeta } from "../../fleet/metadata.ts";
import type { KubeObject } from "../../kube/resource.ts";

type ServiceAccount = KubeObject & Pick<V1ServiceAccount, "automountServiceAccountToken">;

/** ServiceAccount of the proxies. It has no token, since proxies never call the API server. */
export function proxyAccount(policy: EgressPolicy): ServiceAccount {
  const metadata = childMeta(policy, childName.fleet(policy.metadata.name));
  return { apiVersion: "v1", kind: "ServiceAccount", metadata, automountServiceAccountToken: false };
}
