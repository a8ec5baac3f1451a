import { UsageError } from "../cli/usage-error.ts";
import type { PolicySource } from "../policy/policy-file.ts";
import type { Config } from "./config.ts";
import { readSmallText } from "./files.ts";
import { readText } from "./read-policy.ts";

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

/** Reads the policy file of a command line. @throws UsageError: one line with file, field and fix */
export function loadSource(config: Config): PolicySource {
  return readText(readPolicyText(config, true), config).source;
}
