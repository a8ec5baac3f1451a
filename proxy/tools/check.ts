import { noArguments, type Option, optionHelp } from "../cli/options.ts";
import { POLICY_OPTIONS, readConfig, requirePolicy } from "../config/config.ts";
import { loadPolicy } from "../config/load.ts";
import { overrideDocument } from "../config/read-policy.ts";
import { plainLine } from "../policy/rules.ts";

const OPTIONS: readonly Option[] = [...POLICY_OPTIONS, { name: "help", help: "print this help" }];

/** Limit in characters of the name of a service. */
const MAX_NAME = 100;

const HELP = `Usage: outrider check --policy FILE

Validates a policy as the proxy does and prints its hash. Errors on stderr name every wrong field (exit status 2).
The service of an acl.yaml depends on the password: set PROXY_PASSWORD or --password-dir as for the proxy.

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
  const { source, hash } = loadPolicy(config, process.env.PROXY_PASSWORD);
  const { kind, service, warnings } = source;
  for (const warning of warnings) console.error(`warning: ${warning}`);
  const { allow, deny, defaultAction, ports } = overrideDocument(source.document, config);
  const chosen = service === undefined ? "" : `, service ${plainLine(service, MAX_NAME)}`;
  const rules = `${allow.length} allow and ${deny.length} deny rules`;
  console.log(
    `${config.policy}: valid ${kind}${chosen}, ${rules}, default action ${defaultAction}, ports ${ports.join()}, ${hash}`,
  );
  return 0;
}
