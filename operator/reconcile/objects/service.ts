import type { V1ServiceSpec } from "@kubernetes/client-node";
import type { EgressPolicy, EgressPolicySpec } from "../../api/egresspolicy.ts";
import { childName, LABEL, SERVICE_PORT, SERVICE_TLS_PORT, SERVING_PHASE } from "../../api/names.ts";
import { childMeta } from "../../fleet/metadata.ts";
import { SHARED } from "../../fleet/slots.ts";
import type { KubeObject } from "../../kube/resource.ts";
import { type FleetShape, servingLabels } from "../../providers/provider.ts";

/** Labels by which a client Service selects its proxies. */
export type Selector = Readonly<Record<string, string>>;

/** Selector of the client Service for a shape of fleets. `name`: of the policy. */
export function clientSelector(name: string, shape: FleetShape): Selector {
  return { [LABEL.fleet]: name, ...servingLabels(shape) };
}

/** Values of the labels in selectors that this operator, or an older version, wrote. */
const VALUES: Selector = { [LABEL.slot]: SHARED, [LABEL.phase]: SERVING_PHASE, [LABEL.verified]: "true" };

/** Whether the operator wrote a selector, for any provider. Users may have edited it. */
export function isClientSelector(selector: Selector, name: string): boolean {
  const { [LABEL.fleet]: fleet, ...rest } = selector;
  return fleet === name && Object.entries(rest).every(([key, value]) => VALUES[key] === value);
}

/** Whether a selector matches labels. */
export function matches(selector: Selector, labels: Readonly<Record<string, string>> | undefined): boolean {
  return Object.entries(selector).every(([key, value]) => labels?.[key] === value);
}

// With the protocol tcp: service meshes would otherwise detect HTTP, answer CONNECT themselves, and rewrite request targets.
export const servicePort = (name: string, port: number) => ({
  name,
  port,
  targetPort: name,
  protocol: "TCP",
  appProtocol: "tcp",
});

/**
 * Client Service: the address that senders use as their proxy. Slots are single-stack: on the network of a node a proxy
 * listens on one address, and endpoints of the other family would refuse connections.
 */
export function clientService(
  policy: EgressPolicy,
  spec: EgressPolicySpec,
  shape: FleetShape,
  selector: Selector,
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
      selector: { ...selector },
      ports: [
        servicePort("proxy", SERVICE_PORT),
        ...(spec.proxy?.tls === undefined ? [] : [servicePort("tls", SERVICE_TLS_PORT)]),
      ],
    },
  };
}
