import { createHash } from "node:crypto";
import type { Config } from "../config/config.ts";
import type { Head } from "../http/head.ts";
import type { Failure } from "../outcome/refusals.ts";
import { type Address, CidrSet, cidr, parseAddress, single } from "../policy/cidr.ts";
import type { PolicyDocument } from "../policy/document.ts";
import { decideName, type PolicySet, vetAll } from "../policy/engine.ts";
import { isLoopbackAddress } from "../policy/special.ts";
import { formatTarget, parseAuthority, type Target } from "../policy/target.ts";
import { hopTarget, type UpstreamProxy } from "../policy/upstream-proxy.ts";
import { compileFor } from "./compile.ts";
import type { Route, Routes } from "./route.ts";
import { ownNetworks } from "./source-address.ts";

/** The upstream proxy of a policy, ready for use. */
export interface Hop {
  readonly target: Target;
  /** `host:port`, for access records. Senders do not see it. */
  readonly shown: string;
  readonly resolve: UpstreamProxy["resolve"];
  /** Value of Proxy-Authorization; null: none. */
  readonly authorization: string | null;
  /** Decides on the addresses of the upstream proxy. */
  readonly set: PolicySet;
  /** The request named it, in X-Upstream-Https-Proxy. Otherwise the policy does. */
  readonly named: boolean;
  /** Equal if and only if URL, way of resolving and credentials are equal. It reveals no credentials. */
  readonly key: string;
}

/** Networks of a list of addresses and CIDRs. */
const networksOf = (texts: readonly string[]) =>
  texts.map((text) => (text.includes("/") ? cidr(text) : single(parseAddress(text)!)));

/**
 * The policy for the addresses of the upstream proxy. They may be private. Never allowed are metadata and link-local
 * addresses, static IPs, and addresses of this machine, unless `--allow-cidr` opens these. The rules of the policy do not
 * apply.
 */
function compileForHop(document: PolicyDocument, target: Target, config: Config, ports: readonly number[]): PolicySet {
  const { clients: _clients, hostSets: _sets, authentication: _mode, upstreamProxy: _hop, ...rest } = document;
  const cidrs = target.ip ? [single(parseAddress(target.host)!).text] : ["0.0.0.0/0", "::/0"];
  const only: PolicyDocument = {
    ...rest,
    version: 1,
    mode: "Enforce",
    defaultAction: "Deny",
    ports: [target.port],
    allow: [target.ip ? { cidrs } : { hosts: [target.host], cidrs }],
    deny: [],
    staticIPs: [],
  };
  const opened = new CidrSet(config.allowCIDRs.map(cidr));
  const own = networksOf(ownNetworks()).filter((network) => !opened.has(network) && !isLoopbackAddress(network));
  const statics = networksOf(document.staticIPs.flatMap((ip) => [ip.address, ip.sourceAddress ?? ip.address]));
  const sources = networksOf(config.sourceAddresses);
  const denyCIDRs = [...config.denyCIDRs, ...[...own, ...statics, ...sources].map(({ text }) => text)];
  return compileFor(only, { ...config, ports: undefined, denyCIDRs, sourceAddresses: [] }, ports, "");
}

/** The upstream proxy of a document; null: there is none. `authorization`: the value of Proxy-Authorization. */
export function makeHop(
  document: PolicyDocument,
  config: Config,
  ports: readonly number[],
  authorization: string | null,
): Hop | null {
  const { upstreamProxy } = document;
  if (upstreamProxy === undefined) return null;
  const { url, resolve } = upstreamProxy;
  const target = hopTarget(upstreamProxy);
  const key = createHash("sha256")
    .update(JSON.stringify([url, resolve, authorization]))
    .digest("base64url");
  const set = compileForHop(document, target, config, ports);
  return { target, shown: formatTarget(target), resolve, authorization, set, named: false, key };
}

/** Field of Smokescreen, lower-cased. */
const FIELD = "x-upstream-https-proxy";
const BAD_FIELD: Failure = { code: "bad-request", reason: "X-Upstream-Https-Proxy is not http://HOST:PORT" };

/** The value of Proxy-Authorization for the user info of a URL. @throws URIError */
function basic(userInfo: string): string {
  const colon = userInfo.indexOf(":");
  const [user, password] = colon === -1 ? [userInfo, ""] : [userInfo.slice(0, colon), userInfo.slice(colon + 1)];
  const credentials = `${decodeURIComponent(user)}:${decodeURIComponent(password)}`;
  return `Basic ${Buffer.from(credentials).toString("base64")}`;
}

/** Why the view does not admit an upstream proxy that a request names; null: it does. `address`: of its connection. */
export function refuseNamed(
  { hops }: PolicySet,
  { target, shown }: Pick<Hop, "target" | "shown">,
  address: Address | null,
): Failure | null {
  const stage = hops === null ? null : decideName(hops, target);
  if (stage !== null && !("code" in stage)) {
    return address === null ? null : (vetAll(hops!, target, stage, [address]).refusal ?? null);
  }
  if (stage?.code === "denied-rule") return stage;
  const reason = `the upstream proxy ${shown} is not allowed for this client`;
  return { code: "not-allowed", rule: "upstreamProxies", reason };
}

/**
 * The upstream proxy that a request names in X-Upstream-Https-Proxy; null: it names none. It must be on the client's list,
 * and its addresses are vetted as those of a target.
 */
export function namedHop({ headers }: Pick<Head, "headers">, view: PolicySet): Hop | Failure | null {
  let named: string | undefined;
  for (const [name, value] of headers) {
    if (name.length !== FIELD.length || value === "" || name.toLowerCase() !== FIELD) continue;
    if (named !== undefined) return { code: "bad-request", reason: "two X-Upstream-Https-Proxy fields" };
    named = value;
  }
  if (named === undefined) return null;
  const match = /^http:\/\/(?:([^@/?#]*)@)?([^@/?#]+)\/?$/i.exec(named);
  const target = match === null ? null : parseAuthority(match[2]!);
  if (target === null) return BAD_FIELD;
  let authorization: string | null;
  try {
    authorization = match![1] === undefined ? null : basic(match![1]);
  } catch {
    return BAD_FIELD;
  }
  const shown = formatTarget(target);
  const refused = refuseNamed(view, { target, shown }, null);
  if (refused !== null) return refused;
  const resolve = view.document.upstreamProxy?.resolve ?? "Local";
  const key = createHash("sha256")
    .update(JSON.stringify([shown, resolve, authorization]))
    .digest("base64url");
  return { target, shown, resolve, authorization, set: view.hops!, named: true, key };
}

/** The egress paths through an upstream proxy that a request names: no proof of the policy's paths holds for them. */
export function routesThrough(hop: Hop, routes: Routes): Routes {
  const through = (route: Route | null) => route && { ...route, key: `${route.key} by ${hop.shown}` };
  return { 4: through(routes[4]), 6: through(routes[6]) };
}
