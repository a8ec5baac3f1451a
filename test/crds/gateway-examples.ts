import { globSync, readFileSync } from "node:fs";
import { parseAllDocuments } from "yaml";
import type { EgressPolicy } from "../../operator/api/egresspolicy.ts";
import { KIND } from "../../operator/api/names.ts";
import type { KubeObject } from "../../operator/kube/resource.ts";

/** Examples of gateways that users already run: the objects of the gateway, and the policy of the fleet. */

export const root = new URL("../..", import.meta.url).pathname;

/** An object of a gateway. Its spec has any shape. */
export type GatewayObject = KubeObject & { spec: Record<string, unknown> };

export interface GatewayExample {
  /** Path from the root of the repository. */
  file: string;
  objects: GatewayObject[];
  policy: EgressPolicy;
}

/** Objects of a YAML text. @throws with the error of the parser */
export function readObjects<T extends KubeObject>(text: string): T[] {
  return parseAllDocuments(text).map((document) => {
    if (document.errors.length > 0) throw document.errors[0];
    return document.toJS() as T;
  });
}

function readExample(file: string): GatewayExample {
  const all = readObjects<GatewayObject>(readFileSync(`${root}/${file}`, "utf8"));
  const isPolicy = ({ kind }: KubeObject) => kind === KIND;
  const policies = all.filter(isPolicy);
  if (policies.length !== 1) throw new Error(`${file}: ${policies.length} policies; one is required`);
  const objects = all.filter((object) => !isPolicy(object));
  return { file, objects, policy: policies[0] as unknown as EgressPolicy };
}

export const GATEWAY_EXAMPLES = globSync("crds/examples/gateways/*.yaml", { cwd: root }).sort().map(readExample);

/** CRDs of the gateways by `apiVersion/kind`, for the examples that a test applies to the real CRD. */
export const TESTED: Readonly<Record<string, { crd: string; from: "module" | "folder" }>> = {
  "cilium.io/v2/CiliumEgressGatewayPolicy": { crd: "ciliumegressgatewaypolicies.cilium.io", from: "module" },
  "k8s.ovn.org/v1/EgressIP": { crd: "egressips.k8s.ovn.org", from: "folder" },
  "crd.antrea.io/v1beta1/ExternalIPPool": { crd: "externalippools.crd.antrea.io", from: "folder" },
  "crd.antrea.io/v1beta1/Egress": { crd: "egresses.crd.antrea.io", from: "folder" },
  "egressgateway.kubernetes.azure.com/v1alpha1/StaticGatewayConfiguration": {
    crd: "staticgatewayconfigurations.egressgateway.kubernetes.azure.com",
    from: "folder",
  },
};

/** Its CRD; undefined if the example is written from documentation only. */
export const crdOf = ({ apiVersion, kind }: KubeObject) => TESTED[`${apiVersion}/${kind}`];

/** Whether every object of the gateway has a CRD at hand. */
export const isTested = ({ objects }: GatewayExample): boolean =>
  objects.length > 0 && objects.every((object) => crdOf(object) !== undefined);
