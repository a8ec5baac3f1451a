import type { InjectionSpec } from "../api/egresspolicy.ts";
import type { Container, PodLike } from "./pod.ts";

/**
 * Containers that other injectors add. They connect to their own control planes, and a forward proxy breaks them
 * (vault-k8s sets its own HTTPS_PROXY). `spec.injection.containers` can list them explicitly.
 */
const SIDECARS = new Set([
  // Service meshes
  "istio-proxy",
  "linkerd-proxy",
  "kuma-sidecar",
  "consul-dataplane",
  "envoy-sidecar",
  "aws-appmesh-envoy",
  // Secrets and databases
  "vault-agent",
  "cloud-sql-proxy",
  "cloudsql-proxy",
  "alloydb-auth-proxy",
  // Application runtimes and telemetry
  "daprd",
  "otc-container",
  "jaeger-agent",
  "xray-daemon",
]);

/**
 * Init containers that run beside the app containers (`restartPolicy: Always`) and are no known sidecars. They may be
 * senders.
 */
export function nativeSidecars({ spec }: PodLike): readonly Container[] {
  return (spec?.initContainers ?? []).filter(
    ({ name, restartPolicy }) => restartPolicy === "Always" && !SIDECARS.has(name),
  );
}

/** A container that gets the variables, and its place in the pod. */
export interface Chosen {
  /** JSON pointer. */
  path: string;
  container: Container;
}

/**
 * Containers that a policy selects: those it lists, or else every app container that is not a known sidecar. Init
 * containers (migrations, and sidecars with `restartPolicy: Always`) only by name. Ephemeral containers never, since
 * CREATE has none.
 */
export function choose(pod: PodLike, injection: InjectionSpec): Chosen[] {
  const { containers: listed = [], initContainers: initListed = [] } = injection;
  const wanted = (name: string) => (listed.length > 0 ? listed.includes(name) : !SIDECARS.has(name));
  const at = (kind: "containers" | "initContainers", takes: (name: string) => boolean): Chosen[] =>
    (pod.spec?.[kind] ?? []).flatMap((container, i) =>
      takes(container.name) ? [{ path: `/spec/${kind}/${i}`, container }] : [],
    );
  return [...at("initContainers", (name) => initListed.includes(name)), ...at("containers", wanted)];
}
