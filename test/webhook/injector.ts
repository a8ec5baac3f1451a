import type { KubeObject } from "../../operator/kube/resource.ts";
import type { AdmitParts } from "../../operator/webhook/admit.ts";

export const ANNOTATION_POLICY = "egress.outrider.dev/policy";

export const optInByName = (pod: KubeObject): string | undefined =>
  pod.metadata.labels?.[ANNOTATION_POLICY] ?? pod.metadata.annotations?.[ANNOTATION_POLICY];

/** Sets one variable. */
export const injectOne: AdmitParts["inject"] = (_, { host, port }) => ({
  patch: [{ op: "replace", path: "/spec/containers/0/env/0/value", value: `http://${host}:${port}` }],
  warnings: ["one variable is set"],
  events: [{ type: "Normal", reason: "Injected", message: "one variable is set" }],
});
