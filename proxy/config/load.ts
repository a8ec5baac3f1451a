import { UsageError } from "../cli/usage-error.ts";
import type { Config } from "./config.ts";
import { readCredentials } from "./credentials.ts";
import { readSmallText } from "./files.ts";
import { type ReadPolicy, readText } from "./read-policy.ts";

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

/**
 * Reads the policy file of a command line, with the passwords of the proxy: they decide the service of an acl.yaml.
 * `password`: PROXY_PASSWORD. @throws UsageError: one line with file, field and fix
 */
export function loadPolicy(config: Config, password: string | undefined): ReadPolicy {
  const { shared } = readCredentials(password, config.passwordDir);
  return readText(readPolicyText(config, true), config, shared);
}
