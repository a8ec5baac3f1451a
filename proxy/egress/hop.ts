import { createHash } from "node:crypto";
import type { Config } from "../config/config.ts";
import { CidrSet, cidr, parseAddress, single } from "../policy/cidr.ts";
import type { PolicyDocument } from "../policy/document.ts";
import type { PolicySet } from "../policy/engine.ts";
import { isLoopbackAddress } from "../policy/special.ts";
import { formatTarget, type Target } from "../policy/target.ts";
import { hopTarget, type UpstreamProxy } from "../policy/upstream-proxy.ts";
import { compileFor } from "./compile.ts";
import { ownNetworks } from "./source-address.ts";

/** The upstream proxy of a policy, ready for use. */
export interface Hop {
  readonly target: Target;
  /** `host:port`, for access records. Senders do not see it. */
  readonly shown: string;
  readonly resolve: UpstreamProxy["resolve"];
  /** Value of Proxy-Authorization; null: none. */
  readonly authorization: string | null;
  /** Admits the addresses of the upstream proxy on its port, and nothing else. */
  readonly set: PolicySet;
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
  return { target, shown: formatTarget(target), resolve, authorization, set, key };
}
