import { basename } from "node:path";
import { type Option, optionHelp } from "../cli/options.ts";
import { printWarning } from "../cli/print.ts";
import { UsageError } from "../cli/usage-error.ts";
import { POLICY_OPTIONS, RANGE_OPTIONS, readConfig } from "../config/config.ts";
import { readSmallText } from "../config/files.ts";
import { MAX_POLICY_BYTES } from "../config/load.ts";
import { PORTS_OF_ACL } from "../policy/acl.ts";
import { TooComplexError } from "../policy/diff/budget.ts";
import type { Admitting } from "../policy/diff/clients.ts";
import { describeDiff } from "../policy/diff/describe.ts";
import { admittingOf, diffPolicies } from "../policy/diff/diff.ts";
import { writeDiff } from "../policy/diff/written.ts";
import { readPolicy } from "../policy/policy-file.ts";
import { PolicyError, type PortSpec } from "../policy/rules.ts";

const optionsNamed = (options: readonly Option[], names: readonly string[]): Option[] =>
  options.filter(({ name }) => names.includes(name));

const OPTIONS: readonly Option[] = [
  ...optionsNamed(POLICY_OPTIONS, ["service", "ports"]),
  ...optionsNamed(RANGE_OPTIONS, ["allow-cidr", "deny-cidr"]),
  { name: "json", help: "one JSON object with all names, ports and ranges" },
  { name: "help", help: "print this help" },
];

const HELP = `Usage: outrider diff OLD NEW

Compares two policies by what they allow: which names, ports and addresses become reachable (+) or unreachable (-), and
for which clients. OLD and NEW are policy documents, EgressPolicy manifests or acl.yaml files, also of different kinds.
The options apply to both. The addresses of this machine are not special to this command.
Exit status: 0 nothing becomes reachable, 1 something does, 2 wrong usage or an invalid policy.

${optionHelp(OPTIONS)}`;

/** About a minute. */
const MAX_UNITS = 20_000_000;

interface Choice {
  service: string | undefined;
  ports: readonly PortSpec[] | undefined;
  allowCIDRs: readonly string[];
  denyCIDRs: readonly string[];
}

/** Reads and compiles a policy file. @throws UsageError */
function load(file: string, { service, ports, ...ranges }: Choice): Admitting {
  const fail = (message: string): never => {
    throw new UsageError(`${file}: ${message}`);
  };
  let text = "";
  try {
    text = readSmallText(file, { maxBytes: MAX_POLICY_BYTES, pipe: true });
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    fail(code === "ENOENT" ? "no such file" : message);
  }
  try {
    const source = readPolicy(text, { name: basename(file).replace(/[^!-~]/g, "_"), service });
    if (service !== undefined && source.kind !== "acl") fail("--service is for acl.yaml files");
    if (source.kind === "acl" && ports === undefined) printWarning(`${file}: ${PORTS_OF_ACL}`);
    const { document } = source;
    return admittingOf(
      { ...source, document: ports === undefined ? document : { ...document, ports: [...ports] } },
      ranges,
    );
  } catch (error) {
    if (error instanceof PolicyError) return fail(error.message);
    throw error;
  }
}

/** `outrider diff`: returns the exit status. @throws UsageError */
export async function runDiff(argv: readonly string[]): Promise<number> {
  const { config, values, positionals, help } = readConfig(OPTIONS, argv, process.env);
  if (help) {
    console.log(HELP);
    return 0;
  }
  const [old, now, ...more] = positionals;
  if (old === undefined || now === undefined || more.length > 0) {
    throw new UsageError("diff needs exactly two files: OLD and NEW");
  }
  try {
    const diff = diffPolicies(load(old, config), load(now, config), MAX_UNITS);
    console.log(values.has("json") ? JSON.stringify(writeDiff(diff)) : describeDiff(diff).join("\n"));
    return diff.differences.some(({ change }) => change.opens) ? 1 : 0;
  } catch (error) {
    if (error instanceof TooComplexError) throw new UsageError(error.message);
    throw error;
  }
}
