import { readFileSync } from "node:fs";
import { stringify } from "yaml";
import { UsageError } from "../errors.ts";
import { type Option, optionHelp, readOptions } from "../options.ts";
import { aclServices, readAcl } from "../policy/acl.ts";
import { PolicyError, type Rule } from "../policy/rules.ts";
import { specialClass } from "../policy/special.ts";

const OPTIONS: readonly Option[] = [
  { name: "service", value: "NAME", help: "only this service (default: one manifest a service)" },
  { name: "help", help: "print this" },
];

const HELP = `Usage: outrider import FILE [--service NAME]

Turns a Smokescreen or mole acl.yaml into EgressPolicy manifests on stdout; lint warnings go to stderr.

${optionHelp(OPTIONS)}`;

const MAX_NAME = 40;

function manifestName(service: string): string {
  const name = service
    .toLowerCase()
    .replace(/[^a-z0-9-]+/g, "-")
    .replace(/^[^a-z]+/, "")
    .slice(0, MAX_NAME)
    .replace(/-+$/, "");
  return name === "" ? "webhooks" : name;
}

/** A manifest cannot say that a CIDR only admits: addresses that it would open are left out. */
function closeSpecial(rule: Rule, warnings: string[]): Rule[] {
  if (rule.opens !== false) return [rule];
  const cidrs = (rule.cidrs ?? []).filter((text) => {
    const klass = specialClass(text.replace(/\/\d+$/, ""));
    if (klass === null) return true;
    warnings.push(`${rule.name}: ${text} (${klass}) is left out; write a rule with cidrs to open it`);
    return false;
  });
  const { opens: _, ...rest } = rule;
  return cidrs.length === 0 ? [] : [{ ...rest, cidrs }];
}

/** Manifests and lint warnings for the text of an acl.yaml. @throws PolicyError */
export function importAcl(text: string, options: { service?: string }): { yaml: string; warnings: string[] } {
  const services = options.service === undefined ? aclServices(text) : [options.service];
  const warnings = new Set<string>();
  const used = new Set<string>();
  const manifests = (services.length === 0 ? [undefined] : services).map((service) => {
    const { policy, warnings: lint } = readAcl(text, service === undefined ? {} : { service });
    const allow = policy.allow.flatMap((rule) => closeSpecial(rule, lint));
    for (const warning of lint) warnings.add(warning);
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
        ...(allow.length > 0 ? { allow } : {}),
        ...(policy.deny.length > 0 ? { deny: policy.deny } : {}),
      },
    });
  });
  return { yaml: manifests.join("---\n"), warnings: [...warnings] };
}

/** `outrider import`: exit status. @throws UsageError */
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
    text = readFileSync(file, "utf8");
  } catch (error) {
    throw new UsageError(`${file}: ${(error as Error).message}`);
  }
  const service = values.get("service")?.[0];
  const { yaml, warnings } = importAcl(text, service === undefined ? {} : { service });
  for (const warning of warnings) console.error(`warning: ${warning}`);
  process.stdout.write(yaml);
  return 0;
}
