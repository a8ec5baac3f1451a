import { noArguments, type Option, optionHelp } from "../cli/options.ts";
import { printWarning } from "../cli/print.ts";
import { effective, proofsOf, requireProofs } from "../config/authentication.ts";
import { CLIENT_CA_OPTION, POLICY_OPTIONS, readConfig, requirePolicy } from "../config/config.ts";
import { loadPolicy } from "../config/load.ts";
import { overrideDocument } from "../config/read-policy.ts";
import { plainLine } from "../policy/rules.ts";
import { whoGets } from "./who-gets.ts";

const OPTIONS: readonly Option[] = [...POLICY_OPTIONS, CLIENT_CA_OPTION, { name: "help", help: "print this help" }];

/** Limit in characters of the name of a service. */
const MAX_NAME = 100;

const HELP = `Usage: outrider check --policy FILE

Validates a policy as the proxy does and prints its hash. Errors on stderr name every wrong field (exit status 2).
For a policy with clients it also prints the identities that get the rules of each client. Set PROXY_PASSWORD,
--password-dir and --tls-client-ca as for the proxy. If you set one of them, they must fit the mode of the policy. The
command does not read the file of --tls-client-ca.

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
  const password = process.env.PROXY_PASSWORD;
  const { source, hash, credentials } = loadPolicy(config, password);
  const proofs = proofsOf(config, password);
  // Without proofs the policy may be one for the operator, which sets these options by its mode.
  if (proofs.password || proofs.certificate) requireProofs(source, proofs, config);
  const { kind, service, warnings } = source;
  for (const warning of [...warnings, ...credentials.warnings]) printWarning(warning);
  const document = overrideDocument(source.document, config);
  const { allow, deny, defaultAction, ports, clients = [] } = document;
  const chosen = service === undefined ? "" : `, service ${plainLine(service, MAX_NAME)}`;
  const number = clients.length === 0 ? "" : `, ${clients.length} ${clients.length === 1 ? "client" : "clients"}`;
  const rules = `${allow.length} allow and ${deny.length} deny rules`;
  console.log(
    `${config.policy}: valid ${kind}${chosen}${number}, ${rules}, default action ${defaultAction}, ports ${ports.join()}, ${hash}`,
  );
  for (const line of whoGets(document, credentials, effective(source, proofs, config))) {
    console.log(`  ${line}`);
  }
  return 0;
}
