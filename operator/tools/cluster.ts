import type { KubeConfig } from "@kubernetes/client-node";
import { noArguments, type Option, oneOf, readOptions, type Values, wholeNumber } from "../../proxy/cli/options.ts";
import { UsageError } from "../../proxy/cli/usage-error.ts";
import { nearest } from "../../proxy/policy/rules.ts";
import type { EgressPolicy } from "../api/egresspolicy.ts";
import { RESOURCE } from "../api/kinds.ts";
import { GROUP, LABEL, OBJECT_NAME, PLURAL } from "../api/names.ts";
import type { Pod } from "../api/objects.ts";
import { ApiError, Client } from "../kube/client.ts";
import { keyOf } from "../kube/resource.ts";
import { loadKubeConfig } from "../kubeconfig.ts";
import { EXIT, Failure, unknownPolicy } from "./failure.ts";

/** Options of every command. */
export const CLUSTER_OPTIONS: readonly Option[] = [
  { name: "namespace", short: "n", value: "NAME", help: "namespace of the policy (default: that of the context)" },
  { name: "context", value: "NAME", help: "context of the kubeconfig (default: the current one)" },
  {
    name: "kubeconfig",
    value: "FILE",
    help: "configuration of the API server (default: $KUBECONFIG or ~/.kube/config)",
  },
  {
    name: "timeout-seconds",
    value: "N",
    fallback: "30",
    help: "time limit of the command; with --watch, of each call",
  },
];
/** Option of commands with a JSON form. */
export const OUTPUT_OPTION: Option = { name: "output", short: "o", value: "json", help: "JSON instead of text" };
/** Option of commands that need a policy besides their arguments. */
export const POLICY_OPTION: Option = {
  name: "policy",
  short: "p",
  value: "NAME",
  help: "name of the EgressPolicy (required)",
};
export const HELP_OPTION: Option = { name: "help", help: "print this help" };

/** Reads the command line of a command; undefined: it printed its help. @throws UsageError */
export function readCommand(
  options: readonly Option[],
  help: string,
  argv: readonly string[],
): { values: Values; positionals: readonly string[] } | undefined {
  const { values, positionals } = readOptions(options, argv, {});
  if (!values.has("help")) return { values, positionals };
  console.log(help);
  return undefined;
}

/** The API server as the caller may use it. */
export interface Cluster {
  client: Client;
  namespace: string;
  timeoutMs: number;
}

/** Selects a context. @throws UsageError */
function useContext(config: KubeConfig, name: string | undefined): void {
  if (name === undefined) return;
  const known = config.getContexts().map((context) => context.name);
  if (!known.includes(name)) {
    const meant = nearest(name, known);
    const hint = meant === undefined ? `the kubeconfig has ${known.join(", ") || "none"}` : `did you mean ${meant}?`;
    throw new UsageError(`--context: "${name}" is not a context; ${hint}`);
  }
  config.setCurrentContext(name);
}

/** Checks a name of an object. @throws UsageError */
export function checkedName(name: string, what: string): string {
  if (OBJECT_NAME.test(name)) return name;
  throw new UsageError(`${what} must be a name of lower-case letters, digits, "-" and ".", not "${name}"`);
}

/** The policy that a command is about. @throws UsageError */
export function onePolicy([name, ...more]: readonly string[], command: string): string {
  if (name === undefined) throw new UsageError(`${command} needs the name of a POLICY`);
  noArguments(more);
  return checkedName(name, "POLICY");
}

/** Address that the Kubernetes client takes if there is no configuration. */
const NO_CONFIGURATION = "http://localhost:8080";

/** Ends a command that has no answer in time, whatever it waits for. */
function limitCommand(timeoutMs: number): void {
  const end = () => {
    console.error(`outrider: no answer within ${timeoutMs / 1000} s; set --timeout-seconds`);
    process.exit(EXIT.failed);
  };
  // Calls have the same limit, and their errors say more.
  setTimeout(end, timeoutMs + GRACE_MS).unref();
}

const GRACE_MS = 1000;

/** Opens the API server of the options. @throws UsageError */
export function openCluster(values: Values): Cluster {
  const file = values.get("kubeconfig")?.[0];
  const config = loadKubeConfig(file, "user");
  if (config.getCurrentCluster()?.server === NO_CONFIGURATION) {
    throw new UsageError("there is no kubeconfig: set --kubeconfig or KUBECONFIG");
  }
  useContext(config, values.get("context")?.[0]);
  const timeoutMs = (wholeNumber(values, "timeout-seconds", 1, 600) ?? 30) * 1000;
  const own = config.getContextObject(config.getCurrentContext())?.namespace;
  const namespace = values.get("namespace")?.[0] ?? (own || "default");
  checkedName(namespace, "--namespace");
  if (!values.has("watch")) limitCommand(timeoutMs);
  try {
    return { client: new Client(config, { userAgent: "outrider-cli", timeoutMs }), namespace, timeoutMs };
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}

/** Whether the output is JSON. @throws UsageError */
export const wantsJson = (values: Values): boolean => oneOf(values, "output", ["json"]) === "json";

/** The policies of a namespace, or of all. @throws Failure if the cluster has no such kind */
export async function listPolicies(client: Client, namespace: string | undefined): Promise<EgressPolicy[]> {
  try {
    const { items } = await client.listAll<EgressPolicy>(RESOURCE.policy, { namespace });
    return items.sort((a, b) => (keyOf(a) < keyOf(b) ? -1 : 1));
  } catch (error) {
    if (!(error instanceof ApiError) || error.code !== 404) throw error;
    throw new Failure(`the cluster does not have ${PLURAL}.${GROUP}; install the chart (docs/quickstart.md)`);
  }
}

/** One policy. @throws Failure that names the nearest one */
export async function getPolicy({ client, namespace }: Cluster, name: string): Promise<EgressPolicy> {
  try {
    return await client.get<EgressPolicy>(RESOURCE.policy, name, namespace);
  } catch (error) {
    if (!(error instanceof ApiError) || error.code !== 404) throw error;
    const all = await listPolicies(client, namespace);
    throw unknownPolicy(
      name,
      namespace,
      all.map(({ metadata }) => metadata.name),
    );
  }
}

/** The proxies of a policy, by name. */
export async function proxiesOf({ client, namespace }: Cluster, policy: string): Promise<Pod[]> {
  const labelSelector = `${LABEL.fleet}=${policy}`;
  const { items } = await client.listAll<Pod>(RESOURCE.pod, { namespace, labelSelector });
  return items.sort((a, b) => (a.metadata.name < b.metadata.name ? -1 : 1));
}
