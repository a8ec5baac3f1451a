import type { V1ServiceSpec } from "@kubernetes/client-node";
import type { EgressPolicy, EgressPolicySpec } from "../../api/egresspolicy.ts";
import { childName, LABEL, SERVICE_PORT } from "../../api/names.ts";
import { childMeta } from "../../fleet/metadata.ts";
import type { KubeObject } from "../../kube/resource.ts";
import { type FleetShape, servingLabels } from "../../providers/provider.ts";

/**
 * Client Service: the address that senders use as their proxy. Slots are single-stack: on the network of a node a proxy
 * listens on one address, and endpoints of the other family would refuse connections.
 */
export function clientService(
  policy: EgressPolicy,
  spec: EgressPolicySpec,
  shape: FleetShape,
): KubeObject & { spec: V1ServiceSpec } {
  const name = policy.metadata.name;
  const annotations = spec.proxy?.serviceAnnotations;
  return {
    apiVersion: "v1",
    kind: "Service",
    metadata: { ...childMeta(policy, childName.fleet(name)), ...(annotations === undefined ? {} : { annotations }) },
    spec: {
      type: "ClusterIP",
      ipFamilyPolicy: shape.kind === "Slots" ? "SingleStack" : "PreferDualStack",
      selector: { [LABEL.fleet]: name, ...servingLabels(shape) },
      ports: [{ name: "proxy", port: SERVICE_PORT, targetPort: "proxy", protocol: "TCP" }],
    },
  };
}
