import { KubeConfig } from "@kubernetes/client-node/dist/config.js";
import { UsageError } from "../proxy/cli/usage-error.ts";

/**
 * Loads the configuration of the API server: a file, the ServiceAccount of the pod, or the default file. @throws
 * UsageError
 */
export function loadKubeConfig(file: string | undefined): KubeConfig {
  const config = new KubeConfig();
  try {
    if (file !== undefined) config.loadFromFile(file);
    else if (process.env.KUBERNETES_SERVICE_HOST !== undefined) config.loadFromCluster();
    else config.loadFromDefault();
  } catch (error) {
    throw new UsageError(`--kubeconfig ${file ?? "(default)"}: ${(error as Error).message}`);
  }
  if (config.getCurrentCluster() === null) {
    throw new UsageError(`--kubeconfig ${file ?? "(default)"}: has no current context with a cluster`);
  }
  return config;
}
