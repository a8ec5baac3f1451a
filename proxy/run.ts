import { readFileSync } from "node:fs";
import type { AddressInfo } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { makeAdmin, type Status } from "./admin.ts";
import { type Logger, makeLog } from "./cli/log.ts";
import { formatHostPort, listenError, noArguments, optionHelp } from "./cli/options.ts";
import { type Config, PROXY_OPTIONS, readConfig, requirePolicy, type Settings, settingsOf } from "./config/config.ts";
import { Credentials } from "./config/credentials.ts";
import { LOOK_MS, type Loaded, Reload } from "./config/reload.ts";
import { defaultBufferLimit, MIB } from "./connections/buffers.ts";
import { ProxyServer } from "./connections/server.ts";
import { readHosts } from "./dns/hosts.ts";
import { Names } from "./dns/names.ts";
import { requireRoutes } from "./dns/servers.ts";
import { compileFor, compileForEcho } from "./egress/compile.ts";
import { makeAsk } from "./egress/echo-client.ts";
import { Gate } from "./egress/gate.ts";
import { assignedAddresses, ownNetworks, Sources } from "./egress/source-address.ts";
import { Verifier } from "./egress/verifier.ts";
import { Metrics } from "./metrics.ts";
import { RecordWriter } from "./outcome/access-record.ts";
import { type PolicySet, withOwn } from "./policy/engine.ts";
import { openFileLimit } from "./sockets/descriptors.ts";
import { warmUp } from "./warm-up.ts";

/** The version of package.json. */
export function version(): string {
  const text = readFileSync(new URL("../package.json", import.meta.url), "utf8");
  return (JSON.parse(text) as { version: string }).version;
}

const HELP = `Usage: outrider proxy --policy FILE [options]

A forward proxy (CONNECT and absolute-form HTTP) that dials only what its policy and the class of each address permit.
Access records go to stdout, the operational log to stderr. Every option is also an environment variable, such as
OUTRIDER_MAX_TUNNELS (lists: comma-separated); the command line wins. PROXY_PASSWORD demands Basic credentials.
The policy file and the passwords are read again when they change, and on SIGHUP. SIGTERM and SIGINT drain and end it;
a second one hurries.

${optionHelp(PROXY_OPTIONS)}`;

/** Signals in their order; each call takes the next one. */
function makeSignals(names: readonly NodeJS.Signals[]): () => Promise<string> {
  const pending: string[] = [];
  let wake: ((signal: string) => void) | null = null;
  for (const name of names) {
    process.on(name, () => {
      if (wake === null) pending.push(name);
      else {
        wake(name);
        wake = null;
      }
    });
  }
  return () =>
    new Promise((resolve) => {
      const next = pending.shift();
      if (next === undefined) wake = resolve;
      else resolve(next);
    });
}

/** SIGTERM to exit: not ready, serving on, not accepting, closing; a second signal goes on to the closing. */
async function shutDown(server: ProxyServer, config: Config, log: Logger, hurry: Promise<string>): Promise<void> {
  server.phase = "leaving";
  const delay = config.drainDelaySeconds;
  log.info({ delaySeconds: delay }, "leaving: not ready, still serving; a second signal hurries");
  let hurried = false;
  const rush = hurry.then(() => {
    hurried = true;
  });
  await Promise.race([sleep(delay * 1000), rush]);
  const { drainMs } = server.settings;
  log.info({ active: server.counts.active, drainSeconds: drainMs / 1000 }, "draining: no new connections");
  if (!hurried) await Promise.race([server.drain(), sleep(drainMs), rush]);
  const { active } = server.counts;
  if (active > 0) log.warn({ active }, "closing what is still open");
  await server.close();
}

/** `outrider proxy`: runs until SIGTERM or SIGINT. Exit status. @throws UsageError */
export async function runProxy(argv: readonly string[]): Promise<number> {
  const { config, positionals, help } = readConfig(PROXY_OPTIONS, argv, process.env);
  if (help) {
    console.log(HELP);
    return 0;
  }
  requirePolicy(config);
  noArguments(positionals);
  const log = makeLog(config.logLevel);
  // From the first moment: as process 1 of a container it would never hear of a signal that comes before.
  const signal = makeSignals(["SIGTERM", "SIGINT"]);
  const reload = new Reload(config, process.env.PROXY_PASSWORD);
  const first = await reload.start();
  const hosts = config.hosts === undefined ? new Map() : readHosts(config.hosts);
  await requireRoutes(config.resolvers);
  await warmUp(settingsOf(config, null), log);
  const timeoutOf = (loaded: Loaded | null) =>
    config.dnsSeconds ?? loaded?.source.document.proxy.timeouts.dnsSeconds ?? 2;

  const names = new Names({ servers: config.resolvers, timeoutSeconds: timeoutOf(first), hosts });
  const sources = new Sources(config.sourceAddresses);
  const metrics = new Metrics();
  const writer = new RecordWriter(1);
  let echoSet: PolicySet | null = null;
  const verifier = new Verifier({
    ask: makeAsk(names, () => echoSet),
    log,
    onWrong: (way, since) => server.endUnproven(way, since, Number.POSITIVE_INFINITY),
    onRemoved: (way, until) => server.endUnproven(way, Number.NEGATIVE_INFINITY, until),
  });
  // Such errors come in floods: one line per second is enough.
  let loggedAt = Number.NEGATIVE_INFINITY;
  const onAcceptError = (error: Error) => {
    if (performance.now() - loggedAt < 1000) return;
    loggedAt = performance.now();
    log.error({ err: error }, "cannot accept a connection");
  };
  const server: ProxyServer = new ProxyServer({
    settings: settingsOf(config, null),
    credentials: new Credentials(),
    names,
    gate: new Gate(sources, verifier),
    onRecord: (record, ms) => metrics.count(record, ms),
    writer,
    readiness: config.readiness,
    bufferBytes: config.bufferMiB === undefined ? defaultBufferLimit() : config.bufferMiB * MIB,
    onAcceptError,
  });
  metrics.register(server, verifier, reload);
  const status: Status = { version: version(), listen: "", loadedAt: null };
  const onError = (error: unknown) => log.error({ err: error }, "admin request failed");
  const admin = makeAdmin({ proxy: server, status, reload, verifier, sources, metrics, onError });
  await new Promise<void>((resolve, reject) => {
    admin.once("error", (error) => reject(listenError(error, "admin", config.admin)));
    admin.listen(config.admin, resolve);
  });
  admin.on("error", onAcceptError);
  const adminAt = admin.address() as AddressInfo;
  let ports = config.listen.port === 0 ? [adminAt.port] : [config.listen.port, adminAt.port];

  const warnOfFiles = ({ maxTunnels, maxTunnelsWanted }: Settings) => {
    if (maxTunnels >= maxTunnelsWanted) return;
    const openFiles = openFileLimit();
    const advice =
      "the limit of open files is too low for the tunnels that are wanted; raise it (ulimit -n, LimitNOFILE)";
    log.warn({ openFiles, maxTunnels, wanted: maxTunnelsWanted }, advice);
  };
  let current: Loaded | null = null;
  const compileCurrent = () => {
    if (current === null) return;
    const { document } = current.source;
    const policy = compileFor(document, config, ports, current.hash);
    echoSet = compileForEcho(document, config, ports);
    server.install(policy, settingsOf(config, policy.document), current.credentials);
  };
  const install = (loaded: Loaded) => {
    const before = server.policy?.hash;
    current = loaded;
    compileCurrent();
    warnOfFiles(server.settings);
    const { document } = loaded.source;
    names.setTimeout(timeoutOf(loaded));
    verifier.configure(document, sources.list);
    status.loadedAt = new Date().toISOString();
    const { hash } = server.policy!;
    for (const warning of [...loaded.source.warnings, ...loaded.credentials.warnings]) log.warn(warning);
    log.info({ policy: document.policy, hash, kind: loaded.source.kind, changed: hash !== before }, "policy loaded");
  };
  // Before it listens, the policy is in force and the sources are known: nothing is answered without them.
  let own = ownNetworks();
  await sources.check(assignedAddresses());
  if (first !== null) install(first);
  const at = await server.listen(config.listen.host, config.listen.port, config.reusePort).catch((error: unknown) => {
    admin.close();
    throw listenError(error, "listen", config.listen);
  });
  ports = [at.port, adminAt.port];
  if (config.listen.port === 0) compileCurrent();
  status.listen = formatHostPort(at.address, at.port);
  log.info(
    { listen: status.listen, admin: formatHostPort(adminAt.address, adminAt.port), version: status.version },
    "listening",
  );
  if (reload.error !== null) log.error(`${reload.error}; waiting for a valid policy`);
  if (first !== null && !first.credentials.required) log.info("no password is set: every client is served");

  let toldError = reload.error;
  const take = (loaded: Loaded | null, failedBefore: number) => {
    if (loaded !== null) install(loaded);
    else if (reload.failed > failedBefore && !(reload.retrying && reload.error === toldError)) {
      log.error(`${reload.error}; ${current === null ? "waiting for a valid policy" : "the last good one stays"}`);
    }
    toldError = reload.error;
  };
  process.on("SIGHUP", () => {
    const { failed } = reload;
    void reload.force().then((loaded) => take(loaded, failed));
  });
  const useOwn = () => {
    if (echoSet !== null) echoSet = withOwn(echoSet, own);
    if (server.policy !== null) server.install(withOwn(server.policy, own), server.settings, server.credentials);
  };
  let looking = false;
  const look = async () => {
    const { failed } = reload;
    // Not awaited: source addresses are checked while a long file is read.
    void reload.poll().then((loaded) => take(loaded, failed));
    const now = ownNetworks();
    if (now !== own && now.join() !== own.join()) {
      own = now;
      useOwn();
    }
    if (!(await sources.check(assignedAddresses()))) return;
    log.warn({ sources: sources.status() }, "source addresses changed");
    verifier.checkNow();
  };
  const watch = setInterval(() => {
    if (looking) return;
    looking = true;
    void look().finally(() => {
      looking = false;
    });
  }, LOOK_MS);

  log.info({ signal: await signal() }, "shutting down");
  await shutDown(server, config, log, signal());
  clearInterval(watch);
  verifier.stop();
  const adminClosed = new Promise((resolve) => admin.close(resolve));
  admin.closeAllConnections();
  await adminClosed;
  await writer.close();
  return 0;
}
