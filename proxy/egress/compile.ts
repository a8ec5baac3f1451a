import type { Config } from "../config/config.ts";
import { overrideDocument } from "../config/read-policy.ts";
import type { PolicyDocument } from "../policy/document.ts";
import { compile, type PolicySet } from "../policy/engine.ts";
import { ownNetworks } from "./source-address.ts";

/** Compiles a document for this machine and command line. `hash`: of the document, where it is known. */
export function compileFor(
  document: PolicyDocument,
  config: Config,
  listenPorts: readonly number[],
  hash?: string,
): PolicySet {
  return compile(overrideDocument(document, config), {
    ...(hash === undefined ? {} : { hash }),
    allowCIDRs: config.allowCIDRs,
    denyCIDRs: config.denyCIDRs,
    nat64Prefixes: config.nat64Prefixes,
    ownAddresses: ownNetworks(),
    listenPorts,
    sourceAddresses: config.sourceAddresses,
  });
}

/**
 * The policy for the addresses of echo URLs: they are vetted as every target, but without the lists and ports of the policy
 * and of the command line.
 */
export function compileForEcho(document: PolicyDocument, config: Config, listenPorts: readonly number[]): PolicySet {
  const { clients: _clients, hostSets: _hostSets, authentication: _authentication, ...rest } = document;
  const open: PolicyDocument = {
    ...rest,
    version: document.upstreamProxy === undefined ? 1 : 2,
    mode: "Enforce",
    defaultAction: "Allow",
    ports: ["1-65535"],
    allow: [],
    deny: [],
  };
  return compileFor(open, { ...config, ports: undefined }, listenPorts);
}
