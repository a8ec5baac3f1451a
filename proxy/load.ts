import { readFileSync } from "node:fs";
import { basename } from "node:path";
import { type Config, overrideDocument } from "./config.ts";
import { UsageError } from "./errors.ts";
import type { PolicyDocument } from "./policy/document.ts";
import { compile, type PolicySet } from "./policy/engine.ts";
import { PolicyError } from "./policy/rules.ts";
import { type PolicySource, readPolicy } from "./policy/source.ts";
import { ownNetworks } from "./source.ts";

/** Reads the policy file of a command line. @throws UsageError: one line with file, field and mend */
export function loadSource(config: Config): PolicySource {
  let text: string;
  try {
    text = readFileSync(config.policy, "utf8");
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    const why = code === "ENOENT" ? "no such file" : (error as Error).message;
    throw new UsageError(`--policy ${config.policy}: ${why}`, { cause: error });
  }
  try {
    const name = basename(config.policy).replace(/[^!-~]/g, "_");
    const source = readPolicy(text, { name, service: config.service });
    const { verification, staticIPs } = source.document;
    if (verification?.onUnverified === "Block" && staticIPs.length === 0 && config.sourceAddresses.length === 0) {
      throw new UsageError(
        `--policy ${config.policy}: verification: Block needs staticIPs or --source-address: what must the echo URLs see?`,
      );
    }
    if (config.service !== undefined && source.kind !== "acl") {
      throw new UsageError(`--service is for acl.yaml files; ${config.policy} is none`);
    }
    return source;
  } catch (error) {
    if (error instanceof PolicyError) throw new UsageError(`--policy ${config.policy}: ${error.message}`);
    throw error;
  }
}

/** Compiles a document for this machine and command line. */
export function compileFor(document: PolicyDocument, config: Config, listenPorts: readonly number[]): PolicySet {
  return compile(overrideDocument(document, config), {
    allowCIDRs: config.allowCIDRs,
    denyCIDRs: config.denyCIDRs,
    nat64Prefixes: config.nat64Prefixes,
    ownAddresses: ownNetworks(),
    listenPorts,
    sourceAddresses: config.sourceAddresses,
  });
}

/** What echo URLs are vetted with: addresses as for every target, but no list of the policy. */
export function compileForEcho(document: PolicyDocument, config: Config, listenPorts: readonly number[]): PolicySet {
  const open: PolicyDocument = {
    ...document,
    mode: "Enforce",
    defaultAction: "Allow",
    ports: ["1-65535"],
    allow: [],
    deny: [],
  };
  return compileFor(open, config, listenPorts);
}
