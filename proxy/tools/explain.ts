import { type Option, optionHelp } from "../cli/options.ts";
import { printError, printWarning } from "../cli/print.ts";
import { UsageError } from "../cli/usage-error.ts";
import {
  CLIENT_CA_OPTION,
  DNS_OPTIONS,
  POLICY_OPTIONS,
  RANGE_OPTIONS,
  readConfig,
  requirePolicy,
} from "../config/config.ts";
import { loadPolicy } from "../config/load.ts";
import { type Hosts, readHosts } from "../dns/hosts.ts";
import { Names } from "../dns/names.ts";
import { requireRoutes } from "../dns/servers.ts";
import { compileFor } from "../egress/compile.ts";
import { explainTarget, phraseFor } from "../egress/explain.ts";
import { DEFAULT_CLIENT } from "../policy/clients.ts";
import { describeView, type Explanation, explain, parseAsked, viewNamed } from "../policy/explain.ts";

const OPTIONS: readonly Option[] = [
  ...POLICY_OPTIONS,
  CLIENT_CA_OPTION,
  {
    name: "client",
    value: "NAME",
    help: "decide for this client of the policy (default: that of the shared password, if one is set, else default)",
  },
  {
    name: "resolve",
    help: "resolve names and vet their addresses (default: only names of --hosts and localhost have addresses)",
  },
  ...DNS_OPTIONS,
  ...RANGE_OPTIONS,
  { name: "json", help: "one JSON object per target" },
  { name: "help", help: "print this help" },
];

const HELP = `Usage: outrider explain --policy FILE [options] TARGET…

Prints the proxy's decision for each TARGET (URL, host:port or IP:port) with the reason, without connecting to it.
The verdict of a name that cannot be resolved is "unknown": the policy does not deny it, but the sender gets an error.
A policy with clients decides for one of them: --client names it, and the output begins with the parts of its rules.
Set PROXY_PASSWORD, --password-dir and --tls-client-ca as for the proxy.
Exit status: 0 all allowed, 1 any denied or unknown, 2 wrong usage.

${optionHelp(OPTIONS)}`;

/** Exit status if a target is wrong. */
const EXIT_USAGE = 2;

function print(explanation: Explanation, policy: string): string {
  const lines = [`${explanation.target}  ${explanation.verdict}`];
  if (explanation.rule !== undefined) lines.push(`  rule     ${explanation.rule}`);
  if (explanation.code !== undefined) lines.push(`  code     ${explanation.code}`);
  lines.push(`  reason   ${explanation.reason}`);
  if (explanation.wouldDeny)
    lines.push(`  report   would be denied: ${explanation.wouldDeny.code} (${explanation.wouldDeny.rule})`);
  for (const one of explanation.addresses) {
    lines.push(`  address  ${one.address}  ${one.class}  ${one.verdict}${one.reason ? `: ${one.reason}` : ""}`);
  }
  if (explanation.code !== undefined) lines.push(`  sender   ${phraseFor(explanation, policy)}`);
  return lines.join("\n");
}

/** Prints the parts of a client's view above the targets. */
function printView(parts: [part: string, text: string][]): void {
  for (const [part, text] of parts) console.log(`${part.padEnd(16)}${text}`);
  if (parts.length > 0) console.log("");
}

/** `outrider explain`: returns the exit status. @throws UsageError */
export async function runExplain(argv: readonly string[]): Promise<number> {
  const { config, values, positionals, help } = readConfig(OPTIONS, argv, process.env);
  if (help) {
    console.log(HELP);
    return 0;
  }
  requirePolicy(config);
  if (positionals.length === 0) throw new UsageError("explain needs at least one TARGET: URL, host:port or IP:port");
  const { source, credentials } = loadPolicy(config, process.env.PROXY_PASSWORD);
  const named = values.get("client")?.at(-1);
  const shared = credentials.shared && source.sharedClient !== DEFAULT_CLIENT ? source.sharedClient : undefined;
  const set = viewNamed(compileFor(source.document, config, []), named ?? shared);
  if ("error" in set) throw new UsageError(`${values.shown("client")}: ${set.error}`);
  const hosts: Hosts = config.hosts === undefined ? new Map() : await readHosts(config.hosts);
  if (values.has("resolve")) await requireRoutes(config.resolvers);
  // After the checks: wrong usage is one line.
  for (const warning of source.warnings) printWarning(warning);
  const timeoutSeconds = config.dnsSeconds ?? set.document.proxy.timeouts.dnsSeconds;
  const names = new Names({ servers: config.resolvers, timeoutSeconds, hosts });
  if (!values.has("json")) printView(describeView(set));
  let denied = false;
  let wrong = false;
  for (const text of positionals) {
    const target = parseAsked(text);
    if (target === null) {
      // The other targets are still explained.
      printError(`"${text}" is no target: write a URL, host:port or IP:port`);
      wrong = true;
      continue;
    }
    const ask = values.has("resolve") || names.fixed(target.host) !== undefined;
    const explanation = ask ? await explainTarget(set, names, target) : explain(set, target, null);
    denied ||= explanation.verdict !== "allow";
    const { policy } = set.document;
    if (values.has("json")) {
      const phrase = explanation.code !== undefined ? { phrase: phraseFor(explanation, policy) } : {};
      const client = set.entry === null ? {} : { client: set.entry };
      console.log(JSON.stringify({ ...explanation, ...client, ...phrase }));
    } else console.log(print(explanation, policy));
  }
  names.close();
  if (wrong) return EXIT_USAGE;
  return denied ? 1 : 0;
}
