import { readFileSync } from "node:fs";
import { networkInterfaces } from "node:os";
import { basename } from "node:path";
import { type Config, overrideDocument } from "./config.ts";
import { UsageError } from "./errors.ts";
import { compile, type PolicySet } from "./policy/engine.ts";
import { PolicyError } from "./policy/rules.ts";
import { type PolicySource, readPolicy } from "./policy/source.ts";

/** Addresses of this machine's interfaces, sorted: what a target must not reach behind our back. */
export function ownAddresses(): string[] {
  const all = Object.values(networkInterfaces()).flatMap((list) => list ?? []);
  return [...new Set(all.map((entry) => entry.address.replace(/%.*/, "")))].sort();
}

/** Reads the policy file of a command line. @throws UsageError: one line with file, field and mend */
export function loadSource(config: Config): PolicySource {
  let text: string;
  try {
    text = readFileSync(config.policy, "utf8");
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    const why = code === "ENOENT" ? "no such file" : (error as Error).message;
    throw new UsageError(`--policy ${config.policy}: ${why}`);
  }
  try {
    const name = basename(config.policy).replace(/[^!-~]/g, "_");
    const source = readPolicy(text, { name, service: config.service });
    if (config.service !== undefined && source.kind !== "acl") {
      throw new UsageError(`--service is for acl.yaml files; ${config.policy} is none`);
    }
    return source;
  } catch (error) {
    if (error instanceof PolicyError) throw new UsageError(`--policy ${config.policy}: ${error.message}`);
    throw error;
  }
}

/** Compiles a source for this machine and command line. */
export function compileSource(source: PolicySource, config: Config, listenPorts: readonly number[]): PolicySet {
  return compile(overrideDocument(source.document, config), {
    allowCIDRs: config.allowCIDRs,
    denyCIDRs: config.denyCIDRs,
    ownAddresses: ownAddresses(),
    listenPorts,
  });
}
