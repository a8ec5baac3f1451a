import type { Server } from "node:http";
import type { AddressInfo } from "node:net";
import { makeAdmin, type Status } from "./admin.ts";
import { collectGarbage, keepCompiledCode, returnMemoryWhenIdle } from "./cli/garbage.ts";
import { type Logger, makeLog } from "./cli/log.ts";
import { formatHostPort, listenError, noArguments, optionHelp } from "./cli/options.ts";
import { type Config, PROXY_OPTIONS, readConfig, requirePolicy, settingsOf } from "./config/config.ts";
import { Credentials } from "./config/credentials.ts";
import { MIB } from "./config/memory.ts";
import { type Attempt, LOOK_MS, Reload } from "./config/reload.ts";
import { UpstreamCredentials } from "./config/upstream-credentials.ts";
import { defaultBufferLimit } from "./connections/buffers.ts";
import { ProxyServer } from "./connections/server.ts";
import { NameFiles } from "./dns/name-files.ts";
import { Names } from "./dns/names.ts";
import { requireRoutes } from "./dns/servers.ts";
import { makeAsk } from "./egress/echo-client.ts";
import { Gate } from "./egress/gate.ts";
import { assignedAddresses, Sources } from "./egress/source-address.ts";
import { Verifier } from "./egress/verifier.ts";
import { Metrics } from "./metrics.ts";
import { RecordWriter } from "./outcome/access-record.ts";
import { Minutes } from "./outcome/minutes.ts";
import { Decisions } from "./pages/decisions.ts";
import { CidrSet, cidr } from "./policy/cidr.ts";
import { dnsSecondsOf, PolicyInstaller } from "./policy-installer.ts";
import { makeSignals, shutDown } from "./shutdown.ts";
import { TlsInstaller } from "./tls-installer.ts";
import { version } from "./version.ts";

const HELP = `Usage: outrider proxy --policy FILE [options]

A forward proxy (CONNECT and absolute-form HTTP). It connects only to targets that the policy and the class of their
addresses allow. Access records go to stdout, the operational log to stderr. Every option is also an environment
variable, such as OUTRIDER_MAX_TUNNELS (lists: comma-separated); the command line wins. PROXY_PASSWORD requires Basic
credentials. The proxy reads the policy file, the passwords, the TLS files, the hosts file and resolv.conf again when they
change, and on SIGHUP. SIGTERM or SIGINT starts a graceful shutdown. A second signal skips the waiting.

${optionHelp(PROXY_OPTIONS)}`;

/** Limits a frequent log line to one per second. */
function rarely<T extends unknown[]>(write: (...about: T) => void): (...about: T) => void {
  let loggedAt = Number.NEGATIVE_INFINITY;
  return (...about) => {
    if (performance.now() - loggedAt < 1000) return;
    loggedAt = performance.now();
    write(...about);
  };
}

/** Starts the admin port. @throws UsageError when it cannot listen */
async function listenAdmin(admin: Server, at: Config["admin"], onError: (error: Error) => void): Promise<AddressInfo> {
  await new Promise<void>((resolve, reject) => {
    admin.once("error", (error) => reject(listenError(error, "admin", at)));
    admin.listen(at, resolve);
  });
  admin.on("error", onError);
  return admin.address() as AddressInfo;
}

/** Starts the TLS ports; null: there is none. @throws UsageError when one cannot listen */
async function listenTls(server: ProxyServer, { tls, reusePort }: Config) {
  const start = async (port: "tls" | "external", option: string, at: Config["listen"] | undefined) => {
    if (at === undefined) return null;
    return server.listenTls(port, { ...at, reusePort }).catch((error: unknown) => {
      throw listenError(error, option, at);
    });
  };
  return {
    tls: await start("tls", "listen-tls", tls?.listen),
    external: await start("external", "listen-external", tls?.external?.listen),
  };
}

/** Reads all files and this machine's addresses again when they change, and the files on SIGHUP. Ends the polling. */
function watch(
  reload: Reload,
  nameFiles: NameFiles,
  installer: PolicyInstaller,
  sources: Sources,
  verifier: Verifier,
  tls: TlsInstaller | null,
  log: Logger,
): () => void {
  const take = ({ loaded, error }: Attempt) => {
    if (loaded !== null) installer.install(loaded);
    if (error !== null) log.error(error);
  };
  process.on("SIGHUP", () => {
    for (const attempt of reload.force()) void attempt.then(take);
    void nameFiles.force();
    tls?.poll(true);
    installer.pollUpstream(true);
  });
  const poll = async () => {
    // Not awaited: source addresses are checked while a long file is read.
    for (const attempt of reload.poll()) void attempt.then(take);
    void nameFiles.poll();
    tls?.poll();
    installer.pollUpstream();
    installer.checkOwn();
    // checkOwn has looked at the addresses for everything else.
    if (sources.list.length === 0 || !(await sources.check(assignedAddresses()))) return;
    log.warn({ sources: sources.status() }, "source addresses changed");
    verifier.checkNow();
  };
  let polling = false;
  const timer = setInterval(() => {
    if (polling) return;
    polling = true;
    void poll().finally(() => {
      polling = false;
    });
  }, LOOK_MS);
  return () => clearInterval(timer);
}

/** `outrider proxy`: runs until SIGTERM or SIGINT and returns the exit status. @throws UsageError */
export async function runProxy(argv: readonly string[]): Promise<number> {
  const { config, positionals, help } = readConfig(PROXY_OPTIONS, argv, process.env);
  if (help) {
    console.log(HELP);
    return 0;
  }
  requirePolicy(config);
  noArguments(positionals);
  const log = makeLog(config.logLevel);
  keepCompiledCode();
  // Installed first: process 1 of a container ignores signals that have no handler.
  const signal = makeSignals(["SIGTERM", "SIGINT"]);
  const { upstreamPasswordFile: file } = config;
  const upstreamCredentials = file === undefined ? undefined : new UpstreamCredentials(file);
  const reload = new Reload(config, process.env.PROXY_PASSWORD);
  const first = await reload.start();
  const timeoutSeconds = dnsSecondsOf(config, first);
  const names = new Names({ servers: config.resolvers, timeoutSeconds, hosts: new Map() });
  const nameFiles = new NameFiles(names, config, log);
  await nameFiles.start();
  await requireRoutes(config.resolvers);
  collectGarbage();

  const sources = new Sources(config.sourceAddresses);
  const metrics = new Metrics();
  const minutes = new Minutes(() => metrics.totals());
  minutes.start();
  const decisions = new Decisions();
  const writer = new RecordWriter(1);
  const verifier = new Verifier({
    ask: makeAsk(
      names,
      () => installer.echoSet,
      () => server.hop,
    ),
    log,
    onWrong: (route, since) => server.endUnproven(route, since, Number.POSITIVE_INFINITY),
    onRemoved: (route, until) => server.endUnproven(route, Number.NEGATIVE_INFINITY, until),
  });
  const onAcceptError = rarely((error: Error) => log.error({ err: error }, "cannot accept a connection"));
  const setOf = (networks: readonly string[] = []) =>
    networks.length === 0 ? undefined : new CidrSet(networks.map(cidr));
  const server: ProxyServer = new ProxyServer({
    settings: settingsOf(config, null),
    credentials: new Credentials(),
    names,
    gate: new Gate(sources, verifier),
    onRecord: (record, ms) => {
      metrics.count(record, ms);
      if (decisions.tap !== null) decisions.tap(record, ms);
    },
    writer,
    readiness: config.readiness,
    bufferBytes: config.bufferMiB === undefined ? defaultBufferLimit() : config.bufferMiB * MIB,
    proxyProtocolFrom: setOf(config.proxyProtocolFrom),
    externalFrom: setOf(config.tls?.external?.from),
    onAcceptError,
    onHandshakeError: rarely((client: string, reason: string) => log.warn({ client, reason }, "no TLS connection")),
  });
  const tls = config.tls === undefined ? null : new TlsInstaller(config.tls, server, log);
  metrics.register(server, verifier, reload, tls);
  const status: Status = { version: version(), listen: "", loadedAt: null };
  const onError = (error: unknown) => log.error({ err: error }, "admin request failed");
  const admin = makeAdmin({
    proxy: server,
    status,
    reload,
    verifier,
    sources,
    metrics,
    minutes,
    decisions,
    tls,
    onError,
  });
  const adminAt = await listenAdmin(admin, config.admin, onAcceptError);
  // Port 0: the system chooses one later.
  const given = [config.listen, config.tls?.listen, config.tls?.external?.listen].map((one) => one?.port ?? 0);
  const ports = [...given, adminAt.port].filter((port) => port !== 0);
  const installer: PolicyInstaller = new PolicyInstaller(
    { config, log, status, server, names, verifier, sources, upstreamCredentials },
    ports,
  );

  // Before the proxy listens, the policy is in force and the sources are known: no request is answered without them.
  await sources.check(assignedAddresses());
  if (first !== null) installer.install(first);
  const at = await server.listen({ ...config.listen, reusePort: config.reusePort }).catch((error: unknown) => {
    admin.close();
    throw listenError(error, "listen", config.listen);
  });
  const { tls: tlsAt, external: externalAt } = await listenTls(server, config).catch((error: unknown) => {
    admin.close();
    throw error;
  });
  if (tls !== null && tlsAt !== null) tls.listen = formatHostPort(tlsAt.address, tlsAt.port);
  if (tls !== null && externalAt !== null) tls.external = formatHostPort(externalAt.address, externalAt.port);
  const all = [at, adminAt, tlsAt, externalAt].flatMap((one) => (one === null ? [] : [one.port]));
  if (all.some((port) => !ports.includes(port))) installer.usePorts(all);
  // Before the log says "listening": a SIGHUP without a handler would end the process.
  const stopWatching = watch(reload, nameFiles, installer, sources, verifier, tls, log);
  const stopReturning = returnMemoryWhenIdle(() => {
    const { allowed, denied } = metrics.totals();
    return allowed + denied;
  });
  status.listen = formatHostPort(at.address, at.port);
  const adminAddress = formatHostPort(adminAt.address, adminAt.port);
  const listenTlsAt = tls === null ? {} : { tls: tls.listen };
  const listenExternalAt = tls?.external && { external: tls.external };
  log.info(
    { listen: status.listen, ...listenTlsAt, ...listenExternalAt, admin: adminAddress, version: status.version },
    "listening",
  );
  if (reload.error !== null) log.error(`${reload.error}; waiting for a valid policy`);

  log.info({ signal: await signal() }, "shutting down");
  await shutDown(server, config, log, signal());
  stopWatching();
  stopReturning();
  verifier.stop();
  minutes.stop();
  decisions.close();
  const adminClosed = new Promise((resolve) => admin.close(resolve));
  admin.closeAllConnections();
  await adminClosed;
  await writer.close();
  return 0;
}
