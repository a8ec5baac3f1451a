import pino from "pino";
import { Registry } from "prom-client";
import { LABEL } from "../../operator/api/names.ts";
import { inject, optIn } from "../../operator/injection/inject.ts";
import { Client } from "../../operator/kube/client.ts";
import { type Clock, systemClock } from "../../operator/kube/clock.ts";
import { EventRecorder } from "../../operator/kube/events.ts";
import { KubeMetrics } from "../../operator/kube/metrics.ts";
import type { OwnerReference } from "../../operator/kube/resource.ts";
import { makeLookup } from "../../operator/webhook/lookup.ts";
import { type RunningWebhook, startWebhook } from "../../operator/webhook/start.ts";
import type { Answer, ControlPlane } from "../cluster/control-plane.ts";
import { configFrom } from "../operator/kube/shared.ts";
import { applyPolicy, install, makeNamespace } from "../operator/operator.ts";
import { installWebhook as installConfigurations } from "./installed.ts";

export const SYSTEM = "outrider-system";
export const CONFIGURATION_PATH =
  "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/outrider-webhook";
export const EDITS_PATH = CONFIGURATION_PATH.replace("mutating", "validating");
export const SECRET_PATH = `/api/v1/namespaces/${SYSTEM}/secrets/outrider-webhook`;
export const podsPath = (namespace: string): string => `/api/v1/namespaces/${namespace}/pods`;

/** Installs everything as it is shipped; only that the API server finds the webhook on a port of this machine. */
export async function installWebhook(plane: ControlPlane, port: number): Promise<void> {
  await install(plane);
  await installConfigurations(plane, port);
}

/** A namespace with a policy `webhooks`, in which pods can be created. */
export async function makeSenders(plane: ControlPlane, namespace: string): Promise<void> {
  await makeNamespace(plane, namespace);
  await applyPolicy(plane, namespace, "webhooks", { defaultAction: "Allow" });
  const path = `/api/v1/namespaces/${namespace}/serviceaccounts/default`;
  await plane.until(path, (found) => found !== undefined, "the default ServiceAccount");
}

/** A pod that no kubelet runs. `opt`: where it names its policy. */
export function podOf(
  name: string,
  opt: { label?: string; annotation?: string; labels?: Record<string, string> } = {},
): object {
  const { label, annotation, labels } = opt;
  return {
    apiVersion: "v1",
    kind: "Pod",
    metadata: {
      name,
      labels: { ...labels, ...(label === undefined ? {} : { [LABEL.policy]: label }) },
      annotations: annotation === undefined ? {} : { [LABEL.policy]: annotation },
    },
    spec: {
      schedulerName: "no-scheduler",
      containers: [{ name: "app", image: "sender:1", env: [{ name: "HTTP_PROXY", value: "" }] }],
    },
  };
}

interface StoredPod {
  spec: { containers: { env?: { name: string; value?: string }[] }[] };
  message?: string;
}

export function createPod(plane: ControlPlane, namespace: string, pod: object, query = ""): Promise<Answer<StoredPod>> {
  return plane.request<StoredPod>("POST", `${podsPath(namespace)}${query}`, pod);
}

/** The proxy that a stored pod was given. */
export function proxyOf({ body }: Answer<StoredPod>): string | undefined {
  return body.spec?.containers[0]?.env?.find(({ name }) => name === "HTTP_PROXY")?.value || undefined;
}

/** A replica of the webhook in this process, under the role that is shipped. */
export interface Replica extends RunningWebhook {
  registry: Registry;
  /** Number of received reviews. */
  reviews(): Promise<number>;
  until(what: string, check: () => boolean | Promise<boolean>): Promise<void>;
}

export interface ReplicaOptions {
  /** A kubeconfig of the operator's ServiceAccount ({@link operatorConfig}). */
  config: string;
  clock?: Clock;
  wallNow?: () => number;
  owner?: OwnerReference;
  certDir?: string;
  names?: readonly string[];
  /** Default: a free port of 127.0.0.1. */
  listen?: { host: string; port: number };
}

/** The operator's ServiceAccount, which has the shipped roles and no others. */
export const operatorConfig = (plane: ControlPlane): Promise<string> =>
  plane.accountConfig(SYSTEM, "outrider-operator");

export async function startReplica(options: ReplicaOptions): Promise<Replica> {
  const { config, clock = systemClock, wallNow, owner, certDir, names = ["127.0.0.1"] } = options;
  const client = new Client(configFrom(config));
  const registry = new Registry();
  const log = pino({ level: process.env.LOG ?? "silent" });
  const events = new EventRecorder({ client, component: "outrider-operator", instance: "test", log });
  const listen = options.listen ?? { host: "127.0.0.1", port: 0 };
  const webhook = await startWebhook({
    config: { listen, configuration: "outrider-webhook", names, certDir },
    namespace: SYSTEM,
    clusterDomain: "cluster.local",
    lookup: makeLookup({ get: () => undefined }, client, []),
    optIn: (pod) => optIn(pod),
    inject,
    record: (object, { type, reason, message }) => events.event(object, type, reason, message),
    metrics: { registry, kube: new KubeMetrics(registry) },
    ...{ client, owner, log, clock, wallNow },
  });
  return {
    registry,
    port: webhook.port,
    get ready() {
      return webhook.ready;
    },
    reviews: async () => {
      const { values } = await registry.getSingleMetric("outrider_webhook_reviews_total")!.get();
      return values.reduce((sum, { value }) => sum + value, 0);
    },
    until,
    stop: async () => {
      await webhook.stop();
      await events.stop();
      client.close();
    },
  };
}

/** Polls every 20 ms until `check` is true. Fails after a minute with the description. */
export async function until(what: string, check: () => boolean | Promise<boolean>, ms = 60_000): Promise<void> {
  for (const began = Date.now(); !(await check()); ) {
    if (Date.now() - began > ms) throw new Error(`waited ${ms} ms for: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
