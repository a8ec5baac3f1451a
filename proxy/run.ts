import { readFileSync } from "node:fs";
import type { AddressInfo } from "node:net";
import { makeAdmin, type Status } from "./admin.ts";
import { readCredentials } from "./auth.ts";
import { type Config, PROXY_OPTIONS, readConfig, requirePolicy, settingsOf } from "./config.ts";
import { UsageError } from "./errors.ts";
import { compileSource, loadSource, ownAddresses } from "./load.ts";
import { type Logger, makeLog } from "./log.ts";
import { optionHelp } from "./options.ts";
import type { PolicySource } from "./policy/source.ts";
import { RecordWriter } from "./record.ts";
import { Names, readHosts } from "./resolve.ts";
import { ProxyServer } from "./server.ts";

/** A file that was not valid at start is read again after this time (`--on-bad-policy wait`). */
const RETRY_MS = 1000;
/** Interfaces come and go: how often the machine's own addresses are read. */
const INTERFACES_MS = 10_000;

/** The version of package.json. */
export function version(): string {
  const text = readFileSync(new URL("../package.json", import.meta.url), "utf8");
  return (JSON.parse(text) as { version: string }).version;
}

const HELP = `Usage: outrider proxy --policy FILE [options]

A forward proxy (CONNECT and absolute-form HTTP) that dials only what its policy and the class of each address permit.
Access records go to stdout, the operational log to stderr. Every option is also an environment variable, such as
OUTRIDER_MAX_TUNNELS (lists: comma-separated); the command line wins. PROXY_PASSWORD demands Basic credentials.

${optionHelp(PROXY_OPTIONS)}`;

const show = (host: string, port: number): string => (host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`);

function listenError(error: unknown, name: string, where: { host: string; port: number }): UsageError {
  const code = (error as NodeJS.ErrnoException).code;
  const why = code === "EADDRINUSE" ? "the address is in use" : (error as Error).message;
  return new UsageError(`--${name} ${show(where.host, where.port)}: ${why}`);
}

function firstSource(config: Config): { source: PolicySource | null; error: string | null } {
  try {
    return { source: loadSource(config), error: null };
  } catch (error) {
    if (config.onBadPolicy === "exit" || !(error instanceof UsageError)) throw error;
    return { source: null, error: error.message };
  }
}

/** Puts a source in force and tells what a person should look at. */
function install(
  server: ProxyServer,
  source: PolicySource,
  config: Config,
  ports: readonly number[],
  log: Logger,
): void {
  if (source.needsPassword && !server.credentials.required) {
    throw new UsageError("the policy asks for Basic authentication: set PROXY_PASSWORD or --password-dir");
  }
  if (source.document.verification !== undefined) {
    throw new UsageError("verification: this version cannot prove its source address; leave the field out");
  }
  server.policy = compileSource(source, config, ports);
  server.settings = settingsOf(config, server.policy.document);
  for (const warning of source.warnings) log.warn(warning);
  log.info({ policy: server.policy.document.policy, hash: server.policy.hash, kind: source.kind }, "policy loaded");
}

/** `outrider proxy`: runs until SIGTERM or SIGINT. Exit status. @throws UsageError */
export async function runProxy(argv: readonly string[]): Promise<number> {
  const { config, positionals, help } = readConfig(PROXY_OPTIONS, argv, process.env);
  if (help) {
    console.log(HELP);
    return 0;
  }
  requirePolicy(config);
  if (positionals.length > 0) throw new UsageError(`unexpected argument "${positionals[0]}"; see --help`);
  const log = makeLog(config.logLevel);
  const credentials = readCredentials(process.env.PROXY_PASSWORD, config.passwordDir);
  for (const warning of credentials.warnings) log.warn(warning);
  const first = firstSource(config);
  const hosts = config.hosts === undefined ? new Map() : readHosts(config.hosts);
  const timeoutSeconds = config.dnsSeconds ?? first.source?.document.proxy.timeouts.dnsSeconds ?? 2;
  const writer = new RecordWriter(1);
  const server = new ProxyServer({
    settings: settingsOf(config, null),
    credentials,
    names: new Names({ servers: config.resolvers, timeoutSeconds, hosts }),
    writer,
  });
  const status: Status = { version: version(), listen: "", policyError: first.error };
  const admin = makeAdmin(server, status, (error) => log.error({ err: error }, "admin request failed"));
  await new Promise<void>((resolve, reject) => {
    admin.once("error", (error) => reject(listenError(error, "admin", config.admin)));
    admin.listen({ host: config.admin.host || "::", port: config.admin.port }, resolve);
  });
  const adminAt = admin.address() as AddressInfo;
  // Before it listens, the policy is in force: no connection is ever answered without one that could be.
  const fixedPorts = config.listen.port === 0 ? [] : [config.listen.port];
  if (first.source !== null) install(server, first.source, config, [...fixedPorts, adminAt.port], log);
  const at = await server.listen(config.listen.host || "::", config.listen.port).catch((error: unknown) => {
    admin.close();
    throw listenError(error, "listen", config.listen);
  });
  const ports = [at.port, adminAt.port];
  let source = first.source;
  if (source !== null) server.policy = compileSource(source, config, ports);
  // Before the start-up line: whoever waits for it may signal at once.
  const ended = new Promise<string>((resolve) => {
    process.once("SIGTERM", resolve);
    process.once("SIGINT", resolve);
  });
  status.listen = show(at.address, at.port);
  log.info({ listen: status.listen, admin: show(adminAt.address, adminAt.port), version: status.version }, "listening");
  if (first.error !== null) log.error(`${first.error}; waiting for a valid policy`);
  if (!credentials.required) log.info("no password is set: every client that reaches this port is served");

  const retry = setInterval(() => {
    if (source !== null) return;
    const next = firstSource(config);
    status.policyError = next.error;
    if (next.source === null) return;
    try {
      install(server, next.source, config, ports, log);
      source = next.source;
      status.policyError = null;
    } catch (error) {
      if (!(error instanceof UsageError)) throw error;
      status.policyError = error.message;
    }
  }, RETRY_MS);
  let own = ownAddresses().join();
  const interfaces = setInterval(() => {
    const now = ownAddresses().join();
    if (now === own || source === null) return;
    own = now;
    server.policy = compileSource(source, config, ports);
  }, INTERFACES_MS);

  const signal = await ended;
  log.info({ signal }, "shutting down");
  clearInterval(retry);
  clearInterval(interfaces);
  const adminClosed = new Promise((resolve) => admin.close(resolve));
  admin.closeAllConnections();
  await server.close();
  await adminClosed;
  await writer.close();
  return 0;
}
