import { type Option, optionHelp } from "../../proxy/cli/options.ts";
import { RESOURCE } from "../api/kinds.ts";
import { childName } from "../api/names.ts";
import type { ConfigMap } from "../api/objects.ts";
import { ApiError } from "../kube/client.ts";
import { readPublished } from "../reconcile/objects/configmap.ts";
import {
  CLUSTER_OPTIONS,
  getPolicy,
  HELP_OPTION,
  OUTPUT_OPTION,
  onePolicy,
  openCluster,
  readCommand,
  wantsJson,
} from "./cluster.ts";
import { EXIT, Failure } from "./failure.ts";
import { safe, safeJson } from "./text.ts";

const OPTIONS: readonly Option[] = [...CLUSTER_OPTIONS, OUTPUT_OPTION, HELP_OPTION];

const HELP = `Usage: kubectl egress ips POLICY [options]

Prints the published list of addresses that webhook receivers have to allow, one a line. It contains Pending addresses, which
receivers should allow before the first request comes from them. -o json has the phases and CIDRs.
Exit status: 0 printed, 2 wrong usage, 3 no answer, or no list.

${optionHelp(OPTIONS)}`;

/** `kubectl egress ips`: returns the exit status. @throws UsageError, Failure, ApiError */
export async function runIps(argv: readonly string[]): Promise<number> {
  const parsed = readCommand(OPTIONS, HELP, argv);
  if (parsed === undefined) return EXIT.ok;
  const { values, positionals } = parsed;
  const name = onePolicy(positionals, "ips");
  const cluster = openCluster(values);
  const json = wantsJson(values);
  await getPolicy(cluster, name);
  const { client, namespace } = cluster;
  let stored: ConfigMap | undefined;
  try {
    stored = await client.get<ConfigMap>(RESOURCE.configMap, childName.published(name), namespace);
  } catch (error) {
    if (!(error instanceof ApiError) || error.code !== 404) throw error;
  }
  const list = readPublished(stored);
  if (list === undefined) {
    const why = stored === undefined ? "has no published list yet" : "has a damaged list; the operator repairs it";
    throw new Failure(`policy ${name} ${why}; see kubectl egress status ${name}`);
  }
  const all = [...list.ipv4, ...list.ipv6];
  if (json) console.log(safeJson(list));
  else if (all.length > 0) console.log(all.map((address) => safe(address)).join("\n"));
  else throw new Failure(`policy ${name} has no address to publish; set spec.staticIPs`);
  return EXIT.ok;
}
