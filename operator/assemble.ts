import type { Logger } from "../proxy/cli/log.ts";
import type { EgressPolicy } from "./api/egresspolicy.ts";
import type { OperatorConfig } from "./config.ts";
import { inject, optIn } from "./injection/inject.ts";
import type { Client } from "./kube/client.ts";
import { Controller } from "./kube/controller.ts";
import { EventRecorder } from "./kube/events.ts";
import { Informers } from "./kube/informers.ts";
import type { OperatorMetrics } from "./metrics.ts";
import { adminNamespaces, ownNamespace } from "./namespaces.ts";
import { ConditionHistory } from "./overview/history.ts";
import { templateFingerprint } from "./reconcile/decision/units.ts";
import { addCaches, type CacheListeners, type Caches } from "./reconcile/facts/caches.ts";
import { FleetUpgrades } from "./reconcile/facts/fleet-upgrades.ts";
import {
  type FetchStatus,
  MAX_STATUS_BYTES,
  makeDirectFetch,
  SCRAPE_TIMEOUT_MS,
  StatusScraper,
} from "./reconcile/facts/status-scraper.ts";
import { type InForce, inForce } from "./reconcile/in-force.ts";
import { BlockedRanges } from "./reconcile/network/blocked-ranges.ts";
import { PolicyReconciler } from "./reconcile/reconciler.ts";
import { Triggers } from "./reconcile/triggers.ts";
import { PolicyRecords } from "./reconcile/writes/records.ts";
import { readOwner } from "./webhook/certificates/owner.ts";
import type { WebhookConfig } from "./webhook/config.ts";
import { makeLookup } from "./webhook/lookup.ts";
import { type RunningWebhook, startWebhook } from "./webhook/start.ts";

/** Shared by everything that a process runs. */
export interface Shared {
  config: OperatorConfig;
  log: Logger;
  metrics: OperatorMetrics;
  /** Name of this process among all operators. */
  identity: string;
}

/** Parts that reconcile policies, connected and not started. */
export interface Parts {
  events: EventRecorder;
  informers: Informers;
  caches: Caches;
  ranges: BlockedRanges;
  scraper: StatusScraper;
  controller: Controller;
  triggers: Triggers;
  upgrades: FleetUpgrades;
  records: PolicyRecords;
  /** Condition changes for the page; undefined without it. */
  history: ConditionHistory | undefined;
  /** The policy as its fleet runs it. */
  inForce: (policy: EgressPolicy) => InForce;
}

/**
 * Returns a function that reads `/status` of proxies: from the address of the pod, or through the API server. `client`:
 * its own.
 */
export function makeFetch(scrape: OperatorConfig["scrape"], client: Client): FetchStatus {
  if (scrape === "direct") return makeDirectFetch();
  return async ({ metadata }, port) => {
    const path = `/api/v1/namespaces/${metadata.namespace}/pods/${metadata.name}:${port}/proxy/status`;
    const { status, body } = await client.raw("GET", path, {
      timeoutMs: SCRAPE_TIMEOUT_MS,
      maxBytes: MAX_STATUS_BYTES,
    });
    if (status !== 200) throw new Error(`/status returned ${status} through the API server`);
    return body;
  };
}

/** Handler of policies that also records the changes of their conditions. */
function recorded(history: ConditionHistory, triggers: Triggers): CacheListeners["policy"] {
  return (event, policy, before) => {
    if (event === "deleted") history.forget(policy);
    else history.observe(policy, Date.now());
    triggers.policy(event, policy, before);
  };
}

/** Connects the parts that reconcile policies. */
export function assemble({ config, log, metrics, identity }: Shared, client: Client, fetch: FetchStatus): Parts {
  const shared = { client, log, metrics: metrics.kube };
  const events = new EventRecorder({ ...shared, component: "outrider-operator", instance: identity });
  const informers = new Informers({ ...shared, namespaces: config.namespaces, resyncMs: config.resyncMs });
  const hasSynced = () => informers.hasSynced;
  const triggers = new Triggers(() => ({
    ...{ caches, hasSynced, ranges, scraper, records, upgrades, reconciler, controller },
  }));
  const fleet = {
    image: config.image,
    imagePullPolicy: config.imagePullPolicy,
    imagePullSecrets: config.imagePullSecrets,
    adminFrom: adminNamespaces(config),
  };
  const recordNamespace = ownNamespace(config);
  const history = config.page === undefined ? undefined : new ConditionHistory();
  const listeners = history === undefined ? triggers : { ...triggers, policy: recorded(history, triggers) };
  const caches = addCaches(informers, listeners, { discover: config.discoverCIDRs, recordNamespace });
  const upgrades = new FleetUpgrades(caches, {
    operator: templateFingerprint(fleet),
    limit: config.maxUpgradingFleets,
  });
  const records = new PolicyRecords({
    ...{ client, log, cache: caches.records, namespace: recordNamespace },
    isWatched: (namespace) => config.namespaces.length === 0 || config.namespaces.includes(namespace),
  });
  const ranges = new BlockedRanges(caches, config.blockedCIDRs);
  const scraper = new StatusScraper({
    fetch,
    intervalMs: config.scrapeMs,
    onChange: triggers.child,
    onResult: (ok) => metrics.scraped(ok),
  });
  const reconciler = new PolicyReconciler({
    ...{ client, caches, scraper, records, events, log, upgrades, fleet },
    grants: config.grants,
    blockedCIDRs: () => ranges.list,
    onClaims: () => triggers.waiting(),
    clusterDomain: config.clusterDomain,
  });
  const controller: Controller = new Controller({
    name: "egresspolicy",
    workers: config.workers,
    reconcile: (key) => reconciler.reconcile(key),
    ...{ log, metrics: metrics.kube },
  });
  return {
    ...{ events, informers, caches, ranges, scraper, controller, triggers, upgrades, records, history },
    inForce: (policy) => inForce(caches, policy, records),
  };
}

/** Starts the webhook, on every replica, whether it leads or not. `client`: its own. @throws UsageError, ApiError */
export async function startInjection(
  { config, log, metrics, identity }: Shared,
  webhook: WebhookConfig,
  client: Client,
  { caches, inForce }: Pick<Parts, "caches" | "inForce">,
): Promise<RunningWebhook> {
  const namespace = ownNamespace(config);
  const shared = { client, log, metrics: metrics.kube };
  const events = new EventRecorder({ ...shared, component: "outrider-webhook", instance: identity });
  const running = await startWebhook({
    ...{ client, namespace, log, inForce, optIn, inject },
    config: webhook,
    owner: config.owner === undefined ? undefined : await readOwner(client, namespace, config.owner),
    metrics: { registry: metrics.registry, kube: metrics.kube },
    lookup: makeLookup(caches.policies, client, config.namespaces),
    record: (object, { type, reason, message }) => events.event(object, type, reason, message),
    clusterDomain: config.clusterDomain,
  });
  return {
    port: running.port,
    get ready() {
      return running.ready;
    },
    stop: async () => {
      await running.stop();
      await events.stop();
    },
  };
}
