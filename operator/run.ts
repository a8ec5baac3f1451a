import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import type { AddressInfo } from "node:net";
import { hostname } from "node:os";
import { KubeConfig } from "@kubernetes/client-node";
import { type Logger, makeLog } from "../proxy/cli/log.ts";
import { optionHelp } from "../proxy/cli/options.ts";
import { UsageError } from "../proxy/cli/usage-error.ts";
import type { EgressPolicy } from "./api/egresspolicy.ts";
import { LABEL } from "./api/names.ts";
import { OPERATOR_OPTIONS, type OperatorConfig, readOperatorConfig } from "./config.ts";
import { Client } from "./kube/client.ts";
import { Controller } from "./kube/controller.ts";
import { EventRecorder } from "./kube/events.ts";
import { LeaseElection } from "./kube/lease.ts";
import { keyOf } from "./kube/resource.ts";
import { OperatorMetrics } from "./metrics.ts";
import { servePages } from "./pages.ts";
import { providerOf } from "./providers/index.ts";
import { type InForce, inForce } from "./reconcile/in-force.ts";
import { PolicyReconciler } from "./reconcile/policy.ts";
import { blockedRanges } from "./reconcile/ranges.ts";
import {
  type AskStatus,
  MAX_BODY_BYTES as MAX_STATUS_BYTES,
  makeDirectAsk,
  TIMEOUT_MS as SCRAPE_TIMEOUT_MS,
  Scraper,
} from "./reconcile/scrape.ts";
import { ownerOf, Watches, type World, watchWorld } from "./reconcile/world.ts";
import type { WebhookConfig } from "./webhook/config.ts";
import { makeFind } from "./webhook/find.ts";
import { inject, optIn } from "./webhook/inject.ts";
import { readOwner } from "./webhook/owner.ts";
import { startWebhook } from "./webhook/start.ts";

const HELP = `Usage: outrider operator --proxy-image IMAGE [options]

Runs fleets of proxies from EgressPolicies (egresspolicies.egress.outrider.dev) on Kubernetes. Every option is also an
environment variable, such as OUTRIDER_PROXY_IMAGE (lists: comma-separated); the command line wins. The log goes to
stderr. SIGTERM and SIGINT end it: work under way is finished, and the Lease is given back.

${optionHelp(OPERATOR_OPTIONS)}`;

const LEASE = "outrider-operator";
const POD_NAMESPACE_FILE = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";
const DEFAULT_NAMESPACE = "outrider-system";
/** This process among all operators. */
const IDENTITY = `${hostname()}-${randomBytes(4).toString("hex")}`;
/** What follows a write comes in bursts (a Deployment, its pods, their statuses): looked at once, a little later. */
const GATHER_MS = 200;
/** Exit status when the Lease went to somebody else: a new process begins with nothing in mind. */
const EXIT_LOST = 1;

function loadKubeConfig(config: OperatorConfig): KubeConfig {
  const kube = new KubeConfig();
  const { kubeconfig } = config;
  try {
    if (kubeconfig !== undefined) kube.loadFromFile(kubeconfig);
    else if (process.env.KUBERNETES_SERVICE_HOST !== undefined) kube.loadFromCluster();
    else kube.loadFromDefault();
  } catch (error) {
    throw new UsageError(`--kubeconfig ${kubeconfig ?? "(default)"}: ${(error as Error).message}`);
  }
  if (kube.getCurrentCluster() === null) {
    throw new UsageError(`--kubeconfig ${kubeconfig ?? "(default)"}: has no current context with a cluster`);
  }
  return kube;
}

/** Where this pod is; undefined: not in a pod. */
function podNamespace(): string | undefined {
  try {
    return readFileSync(POD_NAMESPACE_FILE, "utf8").trim();
  } catch {
    return undefined;
  }
}

function ownNamespace(config: OperatorConfig): string {
  return config.leaseNamespace ?? podNamespace() ?? DEFAULT_NAMESPACE;
}

function makeAsk(config: OperatorConfig, client: Client): AskStatus {
  if (config.scrape === "direct") return makeDirectAsk();
  return async ({ metadata }, port) => {
    const path = `/api/v1/namespaces/${metadata.namespace}/pods/${metadata.name}:${port}/proxy/status`;
    const { status, body } = await client.raw("GET", path, {
      timeoutMs: SCRAPE_TIMEOUT_MS,
      maxBytes: MAX_STATUS_BYTES,
    });
    if (status !== 200) throw new Error(`/status answers ${status} through the API server`);
    return body;
  };
}

/** Namespaces whose pods reach proxies' admin ports. No selector can name an API server: then whoever can reaches them. */
function adminFrom(config: OperatorConfig): string[] | undefined {
  if (config.scrape === "apiserver" || config.metricsNamespaces.includes("*")) return undefined;
  return [...new Set([podNamespace() ?? ownNamespace(config), ...config.metricsNamespaces])].sort();
}

/** The ranges that no target may be in; the same array as long as they are the same. */
class BlockedRanges {
  readonly #world: () => World;
  readonly #configured: readonly string[];
  #list: readonly string[] = [];

  constructor(world: () => World, configured: readonly string[]) {
    this.#world = world;
    this.#configured = configured;
  }

  get list(): readonly string[] {
    return this.#list;
  }

  /** True: they are others now. */
  update(): boolean {
    const { nodes, serviceCIDRs, apiServers } = this.#world();
    const list = blockedRanges({
      nodes: nodes?.list() ?? [],
      serviceCIDRs: serviceCIDRs?.list() ?? [],
      apiServers: apiServers?.list() ?? [],
      configured: this.#configured,
    });
    if (list.join() === this.#list.join()) return false;
    this.#list = list;
    return true;
  }
}

/** Everything that runs, wired. */
function assemble(config: OperatorConfig, client: Client, ask: AskStatus, log: Logger, metrics: OperatorMetrics) {
  const events = new EventRecorder({
    client,
    log,
    metrics: metrics.kube,
    component: "outrider-operator",
    instance: IDENTITY,
  });
  const { namespaces, resyncMs } = config;
  const watches = new Watches({ client, log, metrics: metrics.kube, namespaces, resyncMs });
  const all = (which: (policy: EgressPolicy) => boolean = () => true) => {
    for (const policy of world.policies.list()) if (which(policy)) controller.enqueue(keyOf(policy));
  };
  const dependsOnNodes = ({ spec }: EgressPolicy) => {
    const provider = providerOf(spec);
    return provider !== undefined && (provider.slots || provider.hostNetwork);
  };
  const exclusive = (policy: EgressPolicy) => providerOf(policy.spec)?.exclusive ?? false;
  const world: World = watchWorld(
    watches,
    {
      policy: (event, policy, before) => {
        controller.enqueue(keyOf(policy));
        if (event === "deleted") reconciler.forget(policy);
        const changed = event !== "updated" || before?.metadata.generation !== policy.metadata.generation;
        // An address may be free now, or asked for by an older policy.
        if (changed && [policy, before].some((one) => one !== undefined && exclusive(one))) all(exclusive);
      },
      child: (owner) => controller.enqueueAfter(owner, GATHER_MS),
      proxy: (event, pod) => {
        const owner = ownerOf(pod, LABEL.fleet);
        if (event === "deleted" || owner === undefined) scraper.forget(pod);
        else scraper.see(pod, owner);
      },
      slot: () => all(exclusive),
      nodes: () => all(dependsOnNodes),
      ranges: () => {
        if (watches.hasSynced && ranges.update()) all();
      },
      namespace: (name) => all((policy) => policy.metadata.namespace === name),
    },
    config.discoverCIDRs,
  );
  const ranges = new BlockedRanges(() => world, config.blockedCIDRs);
  const scraper = new Scraper({
    ask,
    intervalMs: config.scrapeMs,
    onChange: (owner) => controller.enqueueAfter(owner, GATHER_MS),
    onResult: (ok) => metrics.scraped(ok),
  });
  const reconciler = new PolicyReconciler({
    client,
    world,
    scraper,
    events,
    log,
    grants: config.grants,
    blockedCIDRs: () => ranges.list,
    fleet: { image: config.image, imagePullPolicy: config.imagePullPolicy, adminFrom: adminFrom(config) },
    clusterDomain: config.clusterDomain,
  });
  const controller: Controller = new Controller({
    name: "egresspolicy",
    workers: config.workers,
    reconcile: (key) => reconciler.reconcile(key),
    log,
    metrics: metrics.kube,
  });
  const asInForce = (policy: EgressPolicy) =>
    inForce(world, policy, () => ({
      scraper,
      grants: config.grants,
      // Those of the replica that leads; Deployments tell who has an address as well.
      claims: new Map(),
      blockedCIDRs: ranges.list,
      now: Date.now(),
    }));
  return { events, watches, world, ranges, scraper, controller, all, asInForce };
}

/** Injection at admission: on every replica, whoever leads. @throws UsageError, ApiError */
async function startInjection(
  config: OperatorConfig,
  webhook: WebhookConfig,
  kube: {
    client: Client;
    world: World;
    asInForce: (policy: EgressPolicy) => InForce;
    metrics: OperatorMetrics;
    log: Logger;
  },
) {
  const { client, world, asInForce, metrics, log } = kube;
  const namespace = ownNamespace(config);
  const shared = { client, log, metrics: metrics.kube };
  const events = new EventRecorder({ ...shared, component: "outrider-webhook", instance: IDENTITY });
  const running = await startWebhook({
    config: webhook,
    client,
    namespace,
    owner: webhook.owner === undefined ? undefined : await readOwner(client, namespace, webhook.owner),
    metrics: { registry: metrics.registry, kube: metrics.kube },
    log,
    find: makeFind(world.policies, client, config.namespaces),
    inForce: asInForce,
    optIn,
    inject,
    tell: (object, { type, reason, message }) => events.event(object, type, reason, message),
    clusterDomain: config.clusterDomain,
  });
  return {
    port: running.port,
    isReady: () => running.ready,
    stop: async () => {
      await running.stop();
      await events.stop();
    },
  };
}

/** Resolves at the first SIGTERM or SIGINT. */
function untilSignal(): Promise<string> {
  return new Promise((resolve) => {
    for (const name of ["SIGTERM", "SIGINT"] as const) process.once(name, () => resolve(name));
  });
}

/** `outrider operator`: runs until SIGTERM or SIGINT. Exit status. @throws UsageError */
export async function runOperator(argv: readonly string[]): Promise<number> {
  const config = readOperatorConfig(argv, process.env);
  if (config === null) {
    console.log(HELP);
    return 0;
  }
  const log = makeLog(config.logLevel);
  const signal = untilSignal();
  const kubeConfig = loadKubeConfig(config);
  let election: LeaseElection | undefined;
  const isLeader = () => !config.leaderElect || (election?.isLeader ?? false);
  const metrics = new OperatorMetrics(() => parts.world.policies.list(), isLeader);
  const naming = { userAgent: "outrider-operator", metrics: metrics.kube };
  // A process that was stopped for a while, and whose Lease is another's meanwhile, must not write when it goes on.
  const client = new Client(kubeConfig, { ...naming, mayWrite: isLeader });
  // Renewing must not wait behind other calls.
  const leaseClient = new Client(kubeConfig, { ...naming, maxConnections: 1 });
  // Slow proxies must not hold up writes.
  const proxyClient = new Client(kubeConfig, { ...naming, maxConnections: 16 });
  const parts = assemble(config, client, makeAsk(config, proxyClient), log, metrics);
  const { events, watches, world, ranges, scraper, controller, all, asInForce } = parts;
  // Neither leadership nor slow calls may hold up an admission.
  const webhookClient = new Client(kubeConfig, naming);
  const webhook =
    config.webhook === undefined
      ? undefined
      : await startInjection(config, config.webhook, { client: webhookClient, world, asInForce, metrics, log });

  const page = (text: string, status = 200) => Promise.resolve({ status, text: `${text}\n` });
  const pages = {
    "/livez": () => page("ok"),
    "/readyz": () => {
      if (!watches.hasSynced) return page("not all objects are listed yet", 503);
      return webhook?.isReady() === false ? page("the webhook has no certificate yet, or ends", 503) : page("ok");
    },
  };
  const health = await servePages("health", config.health, pages);
  const metricsServer = await servePages("metrics", config.metrics, {
    "/metrics": async () => ({
      status: 200,
      text: await metrics.registry.metrics(),
      type: metrics.registry.contentType,
    }),
  });
  const portOf = (server: typeof health) => (server.address() as AddressInfo).port;
  log.info({ healthPort: portOf(health), metricsPort: portOf(metricsServer), webhookPort: webhook?.port }, "starting");

  let lost = false;
  const lose = new Promise<string>((resolve) => {
    if (!config.leaderElect) return;
    election = new LeaseElection({
      client: leaseClient,
      namespace: ownNamespace(config),
      name: LEASE,
      identity: IDENTITY,
      log,
      metrics: metrics.kube,
      onLost: () => {
        lost = true;
        resolve("lost the Lease");
      },
      // Watches, and what was refused meanwhile, wait for the end of their back-off: not any longer.
      onResumed: () => {
        watches.retry();
        all();
      },
    });
  });
  const end = Promise.race([signal, lose]);
  let resync: NodeJS.Timeout | undefined;
  watches.start();
  const lead = async () => {
    await watches.synced();
    log.info("all objects are listed");
    await election?.start();
    ranges.update();
    scraper.start();
    controller.start();
    all();
    resync = setInterval(all, config.resyncMs);
    log.info("leading: policies are reconciled");
  };
  const leading = lead();
  leading.catch((error: unknown) => log.error({ err: error }, "cannot lead"));
  const why = await Promise.race([end, leading.then(() => end)]);
  log.info({ why }, "ending");
  clearInterval(resync);
  const drained = webhook?.stop();
  scraper.stop();
  const finished = controller.stop();
  // Who lost the Lease must not write any more: its work, which cannot be finished, is not waited for.
  if (!lost) {
    await finished;
    await events.stop();
    await election?.stop();
  }
  // Pods are admitted until the API server has heard that this replica goes; policies are looked up meanwhile.
  await drained;
  if (lost) return EXIT_LOST;
  await watches.stop();
  for (const one of [client, leaseClient, proxyClient, webhookClient]) one.close();
  for (const server of [health, metricsServer]) server.close();
  return 0;
}
