import { type Option, oneOf, optionHelp, type Values } from "../../proxy/cli/options.ts";
import { UsageError } from "../../proxy/cli/usage-error.ts";
import { RESOURCE } from "../api/kinds.ts";
import { LABEL } from "../api/names.ts";
import {
  CLUSTER_OPTIONS,
  type Cluster,
  checkedName,
  getPolicy,
  HELP_OPTION,
  listPolicies,
  openCluster,
  readCommand,
} from "./cluster.ts";
import { EXIT, failureOf } from "./failure.ts";
import { type Gathered, gather } from "./gather.ts";
import { renderFleet, renderList } from "./render-fleet.ts";
import { type Paint, paintFor, safe, safeJson } from "./text.ts";
import { endOnSignal, makeScreen, onChanges } from "./watch.ts";

const OPTIONS: readonly Option[] = [
  ...CLUSTER_OPTIONS,
  { name: "all-namespaces", short: "A", help: "the policies of all namespaces" },
  { name: "output", short: "o", value: "wide|json", help: "wide: more columns; json: everything, for programs" },
  { name: "watch", short: "w", help: "print again after each change, until SIGINT" },
  { name: "offline", help: "do not ask the proxies of NAME for their version and hash" },
  HELP_OPTION,
];

const helpOf = (command: string) => `Usage: ${command} [NAME] [options]

Prints the fleets of EgressPolicies. With NAME also its conditions, addresses, proxies, pods and last events, and it asks each
running proxy for its version and hash through a port-forward. --watch and lists ask no proxy.
Exit status: 0 printed, 2 wrong usage, 3 the cluster did not answer, the policy does not exist, or a right is missing.

${optionHelp(OPTIONS)}`;

/** Version of the JSON form. It increases if a field changes its meaning or is removed. */
export const JSON_VERSION = 1;

interface Request {
  name: string | undefined;
  namespace: string | undefined;
  output: "wide" | "json" | undefined;
  isAsking: boolean;
}

async function read(cluster: Cluster, { name, namespace, isAsking }: Request): Promise<Gathered> {
  const { client } = cluster;
  const policies = name === undefined ? await listPolicies(client, namespace) : [await getPolicy(cluster, name)];
  return gather(client, policies, { namespace, isAsking });
}

function textOf({ fleets, missing }: Gathered, { name, namespace, output }: Request, paint: Paint): string {
  if (output === "json") return safeJson({ version: JSON_VERSION, policies: fleets, missingRights: missing });
  if (fleets.length === 0)
    return `no policy in ${namespace === undefined ? "any namespace" : `namespace ${namespace}`}`;
  const now = Date.now();
  const notes = missing.map((right) => `${paint("note", "yellow")}  missing right: ${safe(right)}`);
  const view =
    name === undefined
      ? renderList(fleets, { all: namespace === undefined, wide: output === "wide", now }, paint)
      : renderFleet(fleets[0]!, now, paint);
  return [view, ...(notes.length === 0 ? [] : ["", ...notes])].join("\n");
}

async function watch(cluster: Cluster, request: Request, paint: Paint): Promise<never> {
  const { namespace } = request;
  endOnSignal();
  const print = makeScreen(process.stdout.isTTY);
  const show = async () => print(textOf(await read(cluster, request), request, paint));
  const kinds = {
    required: { resource: RESOURCE.policy, namespace },
    optional: [{ resource: RESOURCE.pod, namespace, labelSelector: LABEL.fleet }],
  };
  return onChanges(cluster.client, kinds, show, (error) => {
    const { message } = failureOf(error) as Error;
    console.error(`outrider: ${safe(message)}`);
  });
}

function requestOf(values: Values, positionals: readonly string[], namespace: string): Request {
  const [name, ...more] = positionals;
  if (more.length > 0) throw new UsageError(`unexpected argument "${more[0]}"; name one policy, or none`);
  if (name !== undefined) checkedName(name, "NAME");
  const all = values.has("all-namespaces");
  if (all && values.has("namespace")) throw new UsageError("set --namespace or --all-namespaces, not both");
  if (all && name !== undefined) throw new UsageError("a policy by NAME has one namespace; set -n, not -A");
  return {
    name,
    namespace: all ? undefined : namespace,
    output: oneOf(values, "output", ["wide", "json"]),
    isAsking: name !== undefined && !values.has("offline") && !values.has("watch"),
  };
}

/** `outrider get` and `kubectl egress status`: returns the exit status. @throws UsageError, Failure, ApiError */
export async function runGet(argv: readonly string[], command: string): Promise<number> {
  const parsed = readCommand(OPTIONS, helpOf(command), argv);
  if (parsed === undefined) return EXIT.ok;
  const { values, positionals } = parsed;
  const cluster = openCluster(values);
  const request = requestOf(values, positionals, cluster.namespace);
  const paint = paintFor(process.stdout.isTTY && request.output !== "json", process.env);
  if (values.has("watch")) await watch(cluster, request, paint);
  else console.log(textOf(await read(cluster, request), request, paint));
  return EXIT.ok;
}
