import type { InjectionSpec } from "../api/egresspolicy.ts";
import type { Container, PodLike } from "./pod.ts";

/**
 * Containers that other injectors add and that talk to their own control planes: a forward proxy breaks them (vault-k8s
 * sets an HTTPS_PROXY of its own). `spec.injection.containers` names them where they are meant.
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

/** A container that gets the variables, and where it stands in the pod. */
export interface Chosen {
  /** JSON pointer. */
  path: string;
  container: Container;
}

/**
 * The containers that a policy means: those it lists, else every app container that is no known sidecar. Init containers
 * (migrations, and sidecars by `restartPolicy: Always`) only by name. Ephemeral ones never: they are no part of CREATE.
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
