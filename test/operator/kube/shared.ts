import { KubeConfig } from "@kubernetes/client-node";
import type { KubeObject, Resource } from "../../../operator/kube/resource.ts";

const core = { group: "", version: "v1", namespaced: true };
export const CONFIG_MAPS: Resource = { ...core, kind: "ConfigMap", plural: "configmaps" };
export const SERVICES: Resource = { ...core, kind: "Service", plural: "services" };
export const SECRETS: Resource = { ...core, kind: "Secret", plural: "secrets" };
export const EVENTS: Resource = { ...core, kind: "Event", plural: "events" };
export const SERVICE_ACCOUNTS: Resource = { ...core, kind: "ServiceAccount", plural: "serviceaccounts" };
export const NAMESPACES: Resource = { ...core, namespaced: false, kind: "Namespace", plural: "namespaces" };
export const LEASES: Resource = {
  group: "coordination.k8s.io",
  version: "v1",
  kind: "Lease",
  plural: "leases",
  namespaced: true,
};
export const CRDS: Resource = {
  group: "apiextensions.k8s.io",
  version: "v1",
  kind: "CustomResourceDefinition",
  plural: "customresourcedefinitions",
  namespaced: false,
};

export type ConfigMap = KubeObject & { data?: Record<string, string> };

/** Polls every 20 ms until `check` is true. Fails after a minute with the description. */
export async function until(what: string, check: () => boolean | Promise<boolean>, ms = 60_000): Promise<void> {
  const end = Date.now() + ms;
  while (!(await check())) {
    if (Date.now() > end) throw new Error(`waited ${ms} ms for: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

export function configFrom(file: string): KubeConfig {
  const config = new KubeConfig();
  config.loadFromFile(file);
  return config;
}
