import { stringify } from "yaml";
import { type Option, optionHelp, portList, readOptions } from "../cli/options.ts";
import { UsageError } from "../cli/usage-error.ts";
import { readSmallText } from "../config/files.ts";
import { MAX_POLICY_BYTES } from "../config/load.ts";
import { aclServices, PORTS_OF_ACL, readParsedAcl } from "../policy/acl.ts";
import { parseText } from "../policy/parse.ts";
import { PolicyError, type PortSpec, plainLine, type Rule } from "../policy/rules.ts";
import { specialClass } from "../policy/special.ts";

const OPTIONS: readonly Option[] = [
  {
    name: "service",
    value: "NAME",
    help: "only this service (default: one manifest per service, and one for default)",
  },
  {
    name: "ports",
    value: "PORTS",
    repeat: true,
    help: "`spec.ports` of the manifests, such as 1-65535 for every port",
  },
  { name: "help", help: "print this help" },
];

const HELP = `Usage: outrider import FILE [--service NAME]

Converts a Smokescreen or mole acl.yaml to EgressPolicy manifests on stdout. Lint warnings go to stderr.

${optionHelp(OPTIONS)}`;

const MAX_NAME = 40;
/** Limit in characters of a warning: two entries of the file and the text about them. */
const MAX_WARNING = 1000;

function manifestName(service: string): string {
  const name = service
    .toLowerCase()
    .replace(/[^a-z0-9-]+/g, "-")
    .replace(/^[^a-z]+/, "")
    .slice(0, MAX_NAME)
    .replace(/-+$/, "");
  return name === "" ? "webhooks" : name;
}

/** A manifest cannot express that a CIDR only admits: addresses that it would open are left out. */
function closeSpecial(rule: Rule, warnings: string[]): Rule[] {
  if (rule.opens !== false) return [rule];
  const cidrs = (rule.cidrs ?? []).filter((text) => {
    const klass = specialClass(text.replace(/\/\d+$/, ""));
    if (klass === null) return true;
    warnings.push(`${rule.name}: ${text} (${klass}) is left out; write a rule with cidrs to open it`);
    return false;
  });
  const { opens: _, ...rest } = rule;
  if (cidrs.length > 0) {
    warnings.push(`${rule.name}: ${cidrs.join(", ")} also admits names that resolve to it; acl.yaml means the literal`);
  }
  return cidrs.length === 0 ? [] : [{ ...rest, cidrs }];
}

/** Each warning once; a warning that does not apply to every service names its service. */
function merge(lints: readonly string[][], services: readonly string[]): string[] {
  const lines = lints.flatMap((lint, i) =>
    lint.map((warning) => (lints.every((other) => other.includes(warning)) ? warning : `${services[i]}: ${warning}`)),
  );
  return [...new Set(lines)];
}

/** Manifests and lint warnings for the text of an acl.yaml. @throws PolicyError */
export function importAcl(
  text: string,
  { service: wanted, ports }: { service?: string | undefined; ports?: readonly PortSpec[] | undefined },
): { yaml: string; warnings: string[] } {
  const parsed = parseText(text);
  const services = wanted === undefined ? aclServices(parsed) : [wanted];
  const lints: string[][] = [];
  const used = new Set<string>();
  const manifests = (services.length === 0 ? [undefined] : services).map((service) => {
    const { policy, warnings: lint } = readParsedAcl(parsed, { service });
    if (ports === undefined) lint.unshift(`${PORTS_OF_ACL}; set spec.ports to allow others, or use --ports`);
    const allow = policy.allow.flatMap((rule) => closeSpecial(rule, lint));
    lints.push(lint);
    const name = manifestName(service ?? "webhooks");
    if (used.has(name))
      throw new PolicyError([{ path: "services", message: `two services become "${name}"; rename one` }]);
    used.add(name);
    return stringify({
      apiVersion: "egress.outrider.dev/v1alpha1",
      kind: "EgressPolicy",
      metadata: { name },
      spec: {
        mode: policy.mode,
        defaultAction: policy.defaultAction,
        ...(ports === undefined ? {} : { ports }),
        ...(allow.length > 0 ? { allow } : {}),
        ...(policy.deny.length > 0 ? { deny: policy.deny } : {}),
      },
    });
  });
  return { yaml: manifests.join("---\n"), warnings: merge(lints, services) };
}

/** `outrider import`: returns the exit status. @throws UsageError */
export async function runImport(argv: readonly string[]): Promise<number> {
  const { values, positionals } = readOptions(OPTIONS, argv, process.env);
  if (values.has("help")) {
    console.log(HELP);
    return 0;
  }
  const [file, ...more] = positionals;
  if (file === undefined || more.length > 0) throw new UsageError("import needs exactly one FILE");
  let text: string;
  try {
    text = readSmallText(file, { maxBytes: MAX_POLICY_BYTES, pipe: true });
  } catch (error) {
    throw new UsageError(`${file}: ${(error as Error).message}`);
  }
  const choice = { service: values.get("service")?.[0], ports: portList(values, "ports") };
  try {
    const { yaml, warnings } = importAcl(text, choice);
    for (const warning of warnings) console.error(`warning: ${plainLine(warning, MAX_WARNING)}`);
    process.stdout.write(yaml);
    return 0;
  } catch (error) {
    if (error instanceof PolicyError) throw new UsageError(`${file}: ${error.message}`);
    throw error;
  }
}
