import { randomBytes } from "node:crypto";
import type { Server } from "node:http";
import type { AddressInfo } from "node:net";
import { hostname } from "node:os";
import type { KubeConfig } from "@kubernetes/client-node";
import { makeLog } from "../proxy/cli/log.ts";
import { optionHelp } from "../proxy/cli/options.ts";
import { assemble, makeFetch, type Parts, type Shared, startInjection } from "./assemble.ts";
import { OPERATOR_OPTIONS, readOperatorConfig } from "./config.ts";
import { Client } from "./kube/client.ts";
import { LeaseElection } from "./kube/lease.ts";
import { loadKubeConfig } from "./kubeconfig.ts";
import { OperatorMetrics } from "./metrics.ts";
import { ownNamespace } from "./namespaces.ts";
import { servePolicyPage } from "./pages/page-server.ts";
import { PolicyAnswers, type Replica } from "./pages/policies.ts";
import { servePages } from "./pages/serve.ts";
import { readOwner } from "./webhook/certificates/owner.ts";
import type { RunningWebhook } from "./webhook/start.ts";

const HELP = `Usage: outrider operator --proxy-image IMAGE [options]

Runs a fleet of proxies on Kubernetes for each EgressPolicy (egresspolicies.egress.outrider.dev). You can set every option
as an environment variable, such as OUTRIDER_PROXY_IMAGE (lists: comma-separated). The command line has precedence. The log
is written to stderr. SIGTERM or SIGINT starts a graceful shutdown: it finishes the work in progress and releases the Lease.

${optionHelp(OPERATOR_OPTIONS)}`;

const LEASE = "outrider-operator";
/** Exit status after another process got the Lease. A restart clears the state of this process. */
const EXIT_LOST = 1;

/** Resolves at the first SIGTERM or SIGINT. */
function untilSignal(): Promise<string> {
  return new Promise((resolve) => {
    for (const name of ["SIGTERM", "SIGINT"] as const) process.once(name, () => resolve(name));
  });
}

/** Clients of the API server. Each has its own connections, so that slow calls of one do not delay another. */
interface Clients {
  /** Writes only while this process leads: a process that was stopped for a while may have lost the Lease. */
  leader: Client;
  lease: Client;
  /** Reads `/status` of proxies through the API server. */
  proxies: Client;
  webhook: Client;
  /** Reads Events for the page. */
  page: Client;
}

function makeClients(kube: KubeConfig, { metrics }: Shared, isLeader: () => boolean): Clients {
  const shared = { userAgent: "outrider-operator", metrics: metrics.kube };
  return {
    leader: new Client(kube, { ...shared, mayWrite: isLeader }),
    lease: new Client(kube, { ...shared, maxConnections: 1 }),
    proxies: new Client(kube, { ...shared, maxConnections: 16 }),
    webhook: new Client(kube, shared),
    page: new Client(kube, { ...shared, maxConnections: 2 }),
  };
}

/** Serves probes and metrics. @throws UsageError */
async function startPages({ config, log, metrics }: Shared, parts: Parts, webhook: RunningWebhook | undefined) {
  const page = (text: string, status = 200) => Promise.resolve({ status, text: `${text}\n` });
  const health = await servePages("health", config.health, {
    "/livez": () => page("ok"),
    "/readyz": () => {
      if (!parts.informers.hasSynced) return page("caches are not synced yet", 503);
      return webhook?.ready === false
        ? page("the webhook has no certificate yet, or is shutting down", 503)
        : page("ok");
    },
  });
  const { registry } = metrics;
  const metricsServer = await servePages("metrics", config.metrics, {
    "/metrics": async () => ({ status: 200, text: await registry.metrics(), type: registry.contentType }),
  });
  const portOf = (server: Server) => (server.address() as AddressInfo).port;
  log.info({ healthPort: portOf(health), metricsPort: portOf(metricsServer), webhookPort: webhook?.port }, "starting");
  return [health, metricsServer];
}

/** Serves the page about all policies, if it is on. @throws UsageError */
async function startPolicyPage(
  { config, log, identity }: Shared,
  { caches, scraper, records, inForce, history, informers }: Parts,
  client: Client,
  election: () => LeaseElection | undefined,
): Promise<Server[]> {
  if (config.page === undefined || history === undefined) return [];
  const since = new Date().toISOString();
  const replica = (): Replica => {
    const leads = config.leaderElect ? (election()?.isLeader ?? false) : true;
    const leader = leads ? identity : (election()?.holder ?? null);
    return { identity, leads, leader, since, synced: informers.hasSynced };
  };
  const answers = new PolicyAnswers({ caches, scraper, records, inForce, history, client, replica });
  const server = await servePolicyPage(config.page, answers, (err) => log.error({ err }, "page failed"));
  log.info({ pagePort: (server.address() as AddressInfo).port }, "serving the page about policies");
  return [server];
}

function makeElection({ config, log, metrics, identity }: Shared, client: Client, parts: Parts, onLost: () => void) {
  const namespace = ownNamespace(config);
  const { owner } = config;
  return new LeaseElection({
    ...{ client, identity, log, onLost, namespace },
    readOwner: owner === undefined ? undefined : () => readOwner(client, namespace, owner),
    name: LEASE,
    metrics: metrics.kube,
    // Ends the back-off of watches and of writes that were not allowed without the Lease.
    onResumed: () => {
      parts.informers.retry();
      parts.triggers.all();
    },
  });
}

/**
 * Waits for the caches and the Lease, then reconciles. `ended`: aborted when the shutdown begins. Returns the timer of
 * resyncs; undefined if the shutdown was first.
 */
async function lead(
  { config, log }: Shared,
  parts: Parts,
  election: LeaseElection | undefined,
  ended: AbortSignal,
): Promise<NodeJS.Timeout | undefined> {
  await parts.informers.synced();
  log.info("all objects are listed");
  await election?.start();
  // The former leader has written until now, and the watches may not have reported it yet.
  await parts.informers.catchUp();
  if (ended.aborted) return undefined;
  parts.ranges.update();
  parts.scraper.start();
  parts.controller.start();
  parts.triggers.all();
  log.info("leading: policies are reconciled");
  return setInterval(() => parts.triggers.all(), config.resyncMs);
}

/** `outrider operator`: runs until SIGTERM or SIGINT. Exit status. @throws UsageError */
export async function runOperator(argv: readonly string[]): Promise<number> {
  const config = readOperatorConfig(argv, process.env);
  if (config === null) {
    console.log(HELP);
    return 0;
  }
  const signal = untilSignal();
  const kube = loadKubeConfig(config.kubeconfig);
  let election: LeaseElection | undefined;
  const isLeader = () => !config.leaderElect || (election?.isLeader ?? false);
  const shared: Shared = {
    config,
    log: makeLog(config.logLevel),
    metrics: new OperatorMetrics(
      () => parts.caches.policies.list(),
      () => ({ ...parts.upgrades.counts(Date.now()) }),
      isLeader,
    ),
    identity: `${hostname()}-${randomBytes(4).toString("hex")}`,
  };
  const { log } = shared;
  const clients = makeClients(kube, shared, isLeader);
  const parts = assemble(shared, clients.leader, makeFetch(config.scrape, clients.proxies));
  const webhook =
    config.webhook === undefined ? undefined : await startInjection(shared, config.webhook, clients.webhook, parts);
  const servers = [
    ...(await startPages(shared, parts, webhook)),
    ...(await startPolicyPage(shared, parts, clients.page, () => election)),
  ];

  const lost = Promise.withResolvers<string>();
  let hasLost = false;
  const onLost = () => {
    hasLost = true;
    lost.resolve("lost the Lease");
  };
  if (config.leaderElect) election = makeElection(shared, clients.lease, parts, onLost);
  parts.informers.start();
  let resync: NodeJS.Timeout | undefined;
  const ended = new AbortController();
  const leading = lead(shared, parts, election, ended.signal).then((timer) => {
    resync = timer;
  });
  leading.catch((error: unknown) => log.error({ err: error }, "cannot lead"));
  const end = Promise.race([signal, lost.promise]);
  const why = await Promise.race([end, leading.then(() => end)]);
  ended.abort();
  log.info({ why }, "shutting down");
  clearInterval(resync);
  return shutDown(parts, election, webhook, hasLost, () => {
    for (const client of Object.values(clients)) client.close();
    for (const server of servers) server.close();
  });
}

/** Graceful shutdown. `close`: closes connections at the end. Returns the exit status. */
async function shutDown(
  parts: Parts,
  election: LeaseElection | undefined,
  webhook: RunningWebhook | undefined,
  hasLost: boolean,
  close: () => void,
): Promise<number> {
  const drained = webhook?.stop();
  parts.scraper.stop();
  const finished = parts.controller.stop();
  // After the loss of the Lease nothing may be written, so the work in progress cannot finish.
  if (!hasLost) {
    await finished;
    await parts.events.stop();
    await election?.stop();
  }
  // The webhook admits pods until the API server uses other replicas. It needs the caches until then.
  await drained;
  if (hasLost) return EXIT_LOST;
  await parts.informers.stop();
  close();
  return 0;
}
