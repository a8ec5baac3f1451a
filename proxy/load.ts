import type { Config } from "./config.ts";
import { UsageError } from "./errors.ts";
import { readSmallText } from "./files.ts";
import type { PolicyDocument } from "./policy/document.ts";
import { compile, type PolicySet } from "./policy/engine.ts";
import type { PolicySource } from "./policy/source.ts";
import { overrideDocument, readText } from "./read-policy.ts";
import { ownNetworks } from "./source.ts";

/** Bytes of a policy file: 100,000 hosts and as many CIDRs fit. */
export const MAX_POLICY_BYTES = 8 * 1024 * 1024;

/** The text of the policy file. `pipe`: it may be a pipe, such as `<(command)`. @throws UsageError */
export function readPolicyText(config: Config, pipe: boolean): string {
  try {
    return readSmallText(config.policy, { maxBytes: MAX_POLICY_BYTES, pipe });
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    throw new UsageError(`--policy ${config.policy}: ${code === "ENOENT" ? "no such file" : message}`, {
      cause: error,
    });
  }
}

/** Reads the policy file of a command line. @throws UsageError: one line with file, field and mend */
export function loadSource(config: Config): PolicySource {
  return readText(readPolicyText(config, true), config).source;
}

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
