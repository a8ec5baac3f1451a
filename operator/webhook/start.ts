import type { Registry } from "prom-client";
import { UsageError } from "../../proxy/cli/usage-error.ts";
import type { Client } from "../kube/client.ts";
import type { KubeMetrics } from "../kube/metrics.ts";
import type { OwnerReference } from "../kube/resource.ts";
import type { WebhookConfig } from "./config.ts";
import { watchFolder } from "./folder.ts";
import { CertificateKeeper } from "./keeper.ts";
import { WebhookMetrics } from "./metrics.ts";
import { makeWebhook, type Webhook, type WebhookParts } from "./server.ts";

/** The Secret of the certificates that the operator makes, in its own namespace. */
export const SECRET = "outrider-webhook";

export interface StartOptions extends Omit<WebhookParts, "metrics"> {
  config: WebhookConfig;
  /** Its own: neither leadership nor slow calls may hold it up. */
  client: Client;
  /** The operator's. */
  namespace: string;
  owner?: OwnerReference | undefined;
  metrics: { registry: Registry; kube: KubeMetrics };
  wallNow?: (() => number) | undefined;
}

/** A webhook that runs. */
export interface RunningWebhook extends Pick<Webhook, "port" | "ready"> {
  /** Serves on until clients have gone elsewhere (15 s at most), then ends. The cache of policies has to live as long. */
  stop(): Promise<void>;
}

/** Starts server and certificates. @throws UsageError where it cannot listen, or given certificates are of no use */
export async function startWebhook(options: StartOptions): Promise<RunningWebhook> {
  const { config, client, namespace, owner, log, clock, wallNow } = options;
  const metrics = new WebhookMetrics(options.metrics.registry);
  const server = await makeWebhook(config.listen, { ...options, metrics });
  const serve = (pair: { cert: string; key: string }, ends: number) => {
    server.serve(pair);
    metrics.certificateEnds(ends);
  };
  const end = keepCertificates();
  return {
    port: server.port,
    get ready() {
      return server.ready;
    },
    stop: async () => {
      await server.drain();
      await end();
    },
  };

  function keepCertificates(): () => Promise<void> {
    if (config.certDir !== undefined) {
      try {
        const stop = watchFolder(config.certDir, { serve, log, clock });
        return async () => stop();
      } catch (error) {
        throw new UsageError(`--webhook-cert-dir ${(error as Error).message}`);
      }
    }
    const keeper = new CertificateKeeper({
      ...{ client, namespace, owner, serve, log, clock, wallNow },
      secret: SECRET,
      configuration: config.configuration,
      names: config.names.length > 0 ? config.names : serviceNames(namespace),
      metrics: { kube: options.metrics.kube, webhook: metrics },
    });
    keeper.start();
    return () => keeper.stop();
  }
}

/** The API server asks for the first one (`clientConfig.service`). */
function serviceNames(namespace: string): string[] {
  return [`${SECRET}.${namespace}.svc`, `${SECRET}.${namespace}`];
}
