import { noArguments, type Option, optionHelp } from "../cli/options.ts";
import { POLICY_OPTIONS, readConfig, requirePolicy } from "../config/config.ts";
import { loadSource } from "../config/load.ts";
import { hashDocument } from "../policy/document.ts";

const OPTIONS: readonly Option[] = [...POLICY_OPTIONS, { name: "help", help: "print this help" }];

const HELP = `Usage: outrider check --policy FILE

Validates a policy as the proxy does and prints its hash. Errors on stderr name every wrong field (exit status 2).

${optionHelp(OPTIONS)}`;

/** `outrider check`: returns the exit status. @throws UsageError */
export async function runCheck(argv: readonly string[]): Promise<number> {
  const { config, positionals, help } = readConfig(OPTIONS, argv, process.env);
  if (help) {
    console.log(HELP);
    return 0;
  }
  requirePolicy(config);
  noArguments(positionals);
  const { kind, document, warnings } = loadSource(config);
  for (const warning of warnings) console.error(`warning: ${warning}`);
  const rules = `${document.allow.length} allow and ${document.deny.length} deny rules`;
  console.log(
    `${config.policy}: valid ${kind}, ${rules}, default action ${document.defaultAction}, ${hashDocument(document)}`,
  );
  return 0;
}
