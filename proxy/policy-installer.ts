import type { Status } from "./admin.ts";
import type { Logger } from "./cli/log.ts";
import { formatHostPort } from "./cli/options.ts";
import { admitsMissing } from "./config/authentication.ts";
import { type Config, type Settings, settingsOf } from "./config/config.ts";
import type { Loaded } from "./config/reload.ts";
import type { UpstreamCredentials } from "./config/upstream-credentials.ts";
import type { ProxyServer } from "./connections/server.ts";
import type { Names } from "./dns/names.ts";
import { compileFor, compileForEcho } from "./egress/compile.ts";
import { type Hop, makeHop } from "./egress/hop.ts";
import { ownNetworks, type Sources } from "./egress/source-address.ts";
import type { Verifier } from "./egress/verifier.ts";
import { parseAddress } from "./policy/cidr.ts";
import type { Authentication } from "./policy/clients.ts";
import type { PolicyDocument } from "./policy/document.ts";
import { type PolicySet, withOwn } from "./policy/engine.ts";
import { isLoopbackAddress } from "./policy/special.ts";
import { openFileLimit } from "./sockets/descriptors.ts";

/** Time limit in seconds for one name, without a value of the command line or the policy. */
const DEFAULT_DNS_SECONDS = 2;

/** The time limit for one name: the command line first, then the policy. */
export function dnsSecondsOf(config: Config, loaded: Loaded | null): number {
  return config.dnsSeconds ?? loaded?.source.document.proxy.timeouts.dnsSeconds ?? DEFAULT_DNS_SECONDS;
}

/** Whether only this machine can reach an address to listen on. Empty: all addresses. */
function isLoopbackHost(host: string): boolean {
  const address = parseAddress(host);
  return address !== null && isLoopbackAddress(address);
}

/** The parts of the proxy that an installed policy changes. */
interface Parts {
  config: Config;
  log: Logger;
  status: Status;
  server: ProxyServer;
  names: Names;
  verifier: Verifier;
  sources: Sources;
  /** Absent: the upstream proxy gets no credentials. */
  upstreamCredentials?: UpstreamCredentials | undefined;
}

/** Puts loaded policies in force: compiles them for this machine, and hands them to server, resolver and verifier. */
export class PolicyInstaller {
  readonly #parts: Parts;
  #current: Loaded | null = null;
  #ports: readonly number[];
  #own = ownNetworks();
  /** The policy for the addresses of echo URLs; null before the first policy. */
  echoSet: PolicySet | null = null;

  /** `ports`: the ports that this proxy listens on. They are never targets. */
  constructor(parts: Parts, ports: readonly number[]) {
    this.#parts = parts;
    this.#ports = ports;
  }

  install(loaded: Loaded): void {
    const { server, names, verifier, sources, status, config, log } = this.#parts;
    const before = server.policy?.hash;
    this.#current = loaded;
    this.#compile(loaded);
    this.#warnOfFiles(server.settings);
    const { document } = loaded.source;
    names.setTimeout(dnsSecondsOf(config, loaded));
    verifier.configure(document, sources.list);
    status.loadedAt = new Date().toISOString();
    const { hash } = server.policy!;
    for (const warning of [...loaded.source.warnings, ...loaded.credentials.warnings]) log.warn(warning);
    this.#warnOfClients(loaded.authentication);
    const { kind, service } = loaded.source;
    log.info({ policy: document.policy, hash, kind, service, changed: hash !== before }, "policy loaded");
  }

  #compile({ source: { document }, hash, credentials, authentication }: Loaded): void {
    const { config, server } = this.#parts;
    const policy = compileFor(document, config, this.#ports, hash);
    this.echoSet = compileForEcho(document, config, this.#ports);
    server.useHop(this.#hopOf(document));
    server.install(policy, settingsOf(config, policy.document), credentials, authentication);
  }

  #hopOf(document: PolicyDocument): Hop | null {
    const { config, upstreamCredentials } = this.#parts;
    return makeHop(document, config, this.#ports, upstreamCredentials?.authorization ?? null);
  }

  /** Reads changed credentials of the upstream proxy. `now`: in any case (SIGHUP). */
  pollUpstream(now = false): void {
    const { log, server, verifier, upstreamCredentials } = this.#parts;
    if (upstreamCredentials === undefined || !upstreamCredentials.poll(now)) return;
    if (upstreamCredentials.error !== null) {
      log.error(`${upstreamCredentials.error}; the last valid credentials stay in force`);
      return;
    }
    log.info("credentials of the upstream proxy loaded");
    if (this.#current === null) return;
    server.useHop(this.#hopOf(this.#current.source.document));
    verifier.checkNow();
  }

  /** Reports that clients need no proof: a warning, unless only this machine can reach the listeners. */
  #warnOfClients(authentication: Authentication): void {
    if (!admitsMissing(authentication)) return;
    const { log, config } = this.#parts;
    const { mode } = authentication;
    const open = [config.listen, config.tls?.listen].find((at) => at !== undefined && !isLoopbackHost(at.host));
    if (open === undefined) {
      if (mode === "None") log.info("no password is set: every program on this machine may use the proxy");
      return;
    }
    const at = formatHostPort(open.host, open.port);
    const option = open === config.listen ? "--listen" : "--listen-tls";
    const local = `or listen on loopback (${option} 127.0.0.1:${open.port})`;
    if (mode === "None") {
      const fix = "set PROXY_PASSWORD or --password-dir (EgressPolicy: authentication.mode: Basic)";
      log.warn(`no password is set: every client that can reach ${at} is served; ${fix}, ${local}`);
      return;
    }
    const fix = config.allowMissingClient ? "--allow-missing-client" : "authentication.allowMissing";
    log.warn(`every client that can reach ${at} is served as default, without credentials; remove ${fix}, ${local}`);
  }

  #warnOfFiles({ maxTunnels, maxTunnelsWanted }: Settings): void {
    if (maxTunnels >= maxTunnelsWanted) return;
    const fields = { openFiles: openFileLimit(), maxTunnels, wanted: maxTunnelsWanted };
    const message = "the limit of open files is too low for the configured tunnels; raise it (ulimit -n, LimitNOFILE)";
    this.#parts.log.warn(fields, message);
  }

  /** Sets the ports after the system has chosen them. */
  usePorts(ports: readonly number[]): void {
    this.#ports = ports;
    if (this.#current !== null) this.#compile(this.#current);
  }

  /** Reads this machine's own addresses again: they are denied, unless the policy opens them. */
  checkOwn(): void {
    const own = ownNetworks();
    if (own === this.#own || own.join() === this.#own.join()) return;
    this.#own = own;
    const { server } = this.#parts;
    if (this.echoSet !== null) this.echoSet = withOwn(this.echoSet, own);
    if (this.#current !== null) server.useHop(this.#hopOf(this.#current.source.document));
    const { policy, settings, credentials, authentication } = server;
    if (policy !== null) server.install(withOwn(policy, own), settings, credentials, authentication);
  }
}
