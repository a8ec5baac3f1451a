import { KubeConfig } from "@kubernetes/client-node/dist/config.js";
import { UsageError } from "../proxy/cli/usage-error.ts";

/**
 * Loads the configuration of the API server: a file, the ServiceAccount of the pod, or the default file. A command of a
 * `user` prefers the default file, as kubectl does. @throws UsageError
 */
export function loadKubeConfig(file: string | undefined, caller: "operator" | "user" = "operator"): KubeConfig {
  const config = new KubeConfig();
  try {
    if (file !== undefined) config.loadFromFile(file);
    else if (caller === "operator" && process.env.KUBERNETES_SERVICE_HOST !== undefined) config.loadFromCluster();
    else config.loadFromDefault();
  } catch (error) {
    throw new UsageError(`--kubeconfig ${file ?? "(default)"}: ${(error as Error).message}`);
  }
  if (config.getCurrentCluster() === null) {
    throw new UsageError(`--kubeconfig ${file ?? "(default)"}: has no current context with a cluster`);
  }
  return config;
}
