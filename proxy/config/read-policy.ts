import { basename } from "node:path";
import { UsageError } from "../cli/usage-error.ts";
import { PORTS_OF_ACL } from "../policy/acl.ts";
import type { Identities } from "../policy/client-warnings.ts";
import { DEFAULT_CLIENT } from "../policy/clients.ts";
import { hashDocument, type PolicyDocument } from "../policy/document.ts";
import { type PolicySource, readPolicy } from "../policy/policy-file.ts";
import { PolicyError } from "../policy/rules.ts";
import type { Proofs } from "./authentication.ts";
import type { Config } from "./config.ts";

/** A parsed policy file with the overrides of a command line. */
export interface ReadPolicy {
  source: PolicySource;
  /** Hash of the document, after the overrides of the command line. */
  hash: string;
}

/**
 * The document with the overrides of the command line. This is the policy that the proxy applies and whose hash it
 * shows.
 */
export function overrideDocument(document: PolicyDocument, config: Config): PolicyDocument {
  const ports = [...(config.ports ?? document.ports)];
  if (config.reasonDetail === undefined) return { ...document, ports };
  const reasonDetail = config.reasonDetail === "full" ? "Full" : "Class";
  return { ...document, ports, proxy: { ...document.proxy, reasonDetail } };
}

const WITHOUT_PROOFS =
  "--allow-missing-client has no effect: without passwords and --tls-client-ca every client is admitted; set one of them, or remove the option";

/** Checks that `--allow-missing-client` fits the policy. @throws UsageError */
function requireDefault({ kind, document }: PolicySource, config: Config): void {
  if (kind !== "acl") {
    const field = `${kind === "manifest" ? "spec." : ""}authentication.allowMissing`;
    throw new UsageError(`--allow-missing-client is for acl.yaml files; write ${field} into ${config.policy}`);
  }
  if (document.clients?.every(({ name }) => name !== DEFAULT_CLIENT)) {
    throw new UsageError(`--allow-missing-client needs the section default; add it to ${config.policy}`);
  }
}

/** The identities that clients may have, by the start options: passwords in a folder can come and go. */
export function identitiesOf({ passwordDir, allowMissingClient }: Config, proofs: Proofs): Identities {
  return {
    shared: proofs.password,
    own: passwordDir !== undefined || proofs.certificate,
    missing: allowMissingClient || (!proofs.password && !proofs.certificate),
  };
}

/** Parses the text of the policy file of a command line. @throws UsageError: one line with file, field and fix */
export function readText(text: string, config: Config, identities: Identities): ReadPolicy {
  try {
    const name = basename(config.policy).replace(/[^!-~]/g, "_");
    const source = readPolicy(text, { name, service: config.service, identities });
    if (source.kind === "acl" && config.ports === undefined) {
      source.warnings.unshift(`${PORTS_OF_ACL}; allow others with --ports, all of them with --ports 1-65535`);
    }
    const { verification, staticIPs } = source.document;
    if (verification?.onUnverified === "Block" && staticIPs.length === 0 && config.sourceAddresses.length === 0) {
      throw new UsageError(
        `--policy ${config.policy}: verification: Block needs staticIPs or --source-address: what must the echo URLs see?`,
      );
    }
    if (config.service !== undefined && source.kind !== "acl") {
      throw new UsageError(`--service is for acl.yaml files; ${config.policy} is not one`);
    }
    if (config.allowMissingClient) {
      requireDefault(source, config);
      if (!identities.shared && !identities.own) source.warnings.push(WITHOUT_PROOFS);
    }
    return { source, hash: hashDocument(overrideDocument(source.document, config)) };
  } catch (error) {
    if (error instanceof PolicyError) throw new UsageError(`--policy ${config.policy}: ${error.message}`);
    throw error;
  }
}
