import { UsageError } from "../cli/usage-error.ts";
import { proofsOf } from "./authentication.ts";
import type { Config } from "./config.ts";
import { type Credentials, readCredentials } from "./credentials.ts";
import { readSmallText } from "./files.ts";
import { identitiesOf, type ReadPolicy, readText } from "./read-policy.ts";

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
 * Reads the policy file of a command line, and the passwords of the proxy. `password`: PROXY_PASSWORD. @throws UsageError:
 * one line with file, field and fix
 */
export function loadPolicy(config: Config, password: string | undefined): ReadPolicy & { credentials: Credentials } {
  const credentials = readCredentials(password, config.passwordDir);
  return {
    ...readText(readPolicyText(config, true), config, identitiesOf(config, proofsOf(config, password))),
    credentials,
  };
}
