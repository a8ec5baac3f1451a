import { basename } from "node:path";
import { UsageError } from "../cli/usage-error.ts";
import { hashDocument, type PolicyDocument } from "../policy/document.ts";
import { type PolicySource, readPolicy } from "../policy/policy-file.ts";
import { PolicyError } from "../policy/rules.ts";
import type { Config } from "./config.ts";

/** A policy file, read for a command line. */
export interface ReadPolicy {
  source: PolicySource;
  /** Of the document with what the command line overrides. */
  hash: string;
}

/** The document with what the command line overrides: this is the policy that runs, and whose hash is shown. */
export function overrideDocument(document: PolicyDocument, config: Config): PolicyDocument {
  if (config.reasonDetail === undefined) return document;
  const reasonDetail = config.reasonDetail === "full" ? "Full" : "Class";
  return { ...document, proxy: { ...document.proxy, reasonDetail } };
}

/** Reads the text of the policy file of a command line. @throws UsageError: one line with file, field and mend */
export function readText(text: string, config: Config): ReadPolicy {
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
    return { source, hash: hashDocument(overrideDocument(source.document, config)) };
  } catch (error) {
    if (error instanceof PolicyError) throw new UsageError(`--policy ${config.policy}: ${error.message}`);
    throw error;
  }
}
