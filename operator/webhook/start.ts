import type { Registry } from "prom-client";
import { UsageError } from "../../proxy/cli/usage-error.ts";
import type { Client } from "../kube/client.ts";
import type { KubeMetrics } from "../kube/metrics.ts";
import type { OwnerReference } from "../kube/resource.ts";
import { MountedCertificates } from "./certificates/mounted.ts";
import { CertificateRotator } from "./certificates/rotator.ts";
import type { WebhookConfig } from "./config.ts";
import { WebhookMetrics } from "./metrics.ts";
import { makeWebhook, type Webhook, type WebhookParts } from "./server.ts";

/** Secret of the generated certificates, in the namespace of the operator. Also the name of the Service. */
const SECRET = "outrider-webhook";

interface StartOptions extends Omit<WebhookParts, "metrics"> {
  config: WebhookConfig;
  /** A client of its own, so that neither leadership nor slow calls delay admissions. */
  client: Client;
  /** Namespace of the operator. */
  namespace: string;
  owner?: OwnerReference | undefined;
  metrics: { registry: Registry; kube: KubeMetrics };
  wallNow?: (() => number) | undefined;
}

/** A running webhook. */
export interface RunningWebhook extends Pick<Webhook, "port" | "ready"> {
  /** Graceful shutdown, which takes at most 15 s and the requests in progress. It needs the cache of policies. */
  stop(): Promise<void>;
}

/**
 * Starts the server and the certificates. @throws UsageError if it cannot listen, or the mounted certificate is not
 * valid
 */
export async function startWebhook(options: StartOptions): Promise<RunningWebhook> {
  const { config, client, namespace, owner, log, clock, wallNow } = options;
  const metrics = new WebhookMetrics(options.metrics.registry);
  const server = await makeWebhook(config.listen, { ...options, metrics });
  const serve = (pair: { cert: string; key: string }, ends: number) => {
    server.serve(pair);
    metrics.certificateEnds(ends);
  };
  const stopCertificates = startCertificates();
  return {
    port: server.port,
    get ready() {
      return server.ready;
    },
    stop: async () => {
      await server.drain();
      await stopCertificates();
    },
  };

  function startCertificates(): () => Promise<void> {
    const certificates = makeCertificates();
    certificates.start();
    return () => certificates.stop();
  }

  function makeCertificates(): MountedCertificates | CertificateRotator {
    const { configuration, certDir, names } = config;
    const shared = {
      ...{ client, configuration, serve, log, clock },
      metrics: options.metrics.kube,
      onBundleWritten: () => metrics.bundleWritten(),
    };
    if (certDir === undefined) {
      const known = names.length > 0 ? names : serviceNames(namespace);
      return new CertificateRotator({ ...shared, namespace, owner, wallNow, secret: SECRET, names: known });
    }
    try {
      return new MountedCertificates({ ...shared, folder: certDir });
    } catch (error) {
      throw new UsageError(`--webhook-cert-dir ${(error as Error).message}`);
    }
  }
}

/** Names of the Service. The API server uses the first one (`clientConfig.service`). */
function serviceNames(namespace: string): string[] {
  return [`${SECRET}.${namespace}.svc`, `${SECRET}.${namespace}`];
}
