import { readFileSync } from "node:fs";
import type { OperatorConfig } from "./config.ts";

const POD_NAMESPACE_FILE = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";
const DEFAULT_NAMESPACE = "outrider-system";

/** Namespace of this pod; undefined outside of a pod. */
function podNamespace(): string | undefined {
  try {
    return readFileSync(POD_NAMESPACE_FILE, "utf8").trim();
  } catch {
    return undefined;
  }
}

/** Namespace of the Lease, of the records of policies, and of the Secret of the webhook. */
export function ownNamespace({ leaseNamespace }: OperatorConfig): string {
  return leaseNamespace ?? podNamespace() ?? DEFAULT_NAMESPACE;
}

/**
 * Namespaces whose pods reach the admin ports of proxies. Undefined: no restriction, since no selector matches an API
 * server.
 */
export function adminNamespaces(config: OperatorConfig): string[] | undefined {
  if (config.scrape === "apiserver" || config.metricsNamespaces.includes("*")) return undefined;
  return [...new Set([podNamespace() ?? ownNamespace(config), ...config.metricsNamespaces])].sort();
}
