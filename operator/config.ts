import { LOG_LEVELS } from "../proxy/cli/log.ts";
import { ipPort, noArguments, type Option, oneOf, readOptions, wholeNumber } from "../proxy/cli/options.ts";
import { UsageError } from "../proxy/cli/usage-error.ts";
import { parseCidr } from "../proxy/policy/cidr.ts";
import { type Grants, readGrants } from "./reconcile/grants.ts";
import type { ProxyPods } from "./reconcile/resources/deployment.ts";
import { readWebhookConfig, WEBHOOK_OPTIONS, type WebhookConfig } from "./webhook/config.ts";

/** All options of `outrider operator`, in the order of `--help`. */
export const OPERATOR_OPTIONS: readonly Option[] = [
  {
    name: "kubeconfig",
    value: "FILE",
    help: "how to reach the API server (default: in a pod its ServiceAccount, else $KUBECONFIG or ~/.kube/config)",
  },
  { name: "namespaces", value: "NAME", repeat: true, help: "namespaces whose policies count (default: all)" },
  { name: "proxy-image", value: "IMAGE", help: "image of the proxies (required)" },
  {
    name: "proxy-image-pull-policy",
    value: "Always|IfNotPresent|Never",
    fallback: "IfNotPresent",
    help: "when nodes pull it",
  },
  { name: "cluster-domain", value: "NAME", fallback: "cluster.local", help: "DNS domain of the cluster's Services" },
  {
    name: "blocked-cidrs",
    value: "CIDR",
    repeat: true,
    help: "ranges that no target may be in, besides special-purpose and discovered ones",
  },
  {
    name: "discover-cidrs",
    value: "on|off",
    fallback: "on",
    help: "block the ranges of pods, services, nodes and the API server, as the API tells them",
  },
  {
    name: "grants",
    value: "FILE",
    help: "who may have exclusive addresses: YAML, grants: [{namespaces, providers, staticIPs}] (default: nobody)",
  },
  {
    name: "leader-elect",
    value: "on|off",
    fallback: "on",
    help: "several operators: one acts, by a Lease",
  },
  {
    name: "lease-namespace",
    value: "NAME",
    help: "namespace of the Lease (default: the pod's own, else outrider-system)",
  },
  { name: "scrape", value: "direct|apiserver", fallback: "direct", help: "how /status of proxies is reached" },
  {
    name: "metrics-namespaces",
    value: "NAME",
    repeat: true,
    help: "namespaces whose pods NetworkPolicies let to proxies' admin ports, besides the operator's own; * for all",
  },
  { name: "scrape-seconds", value: "N", fallback: "10", help: "how often a settled proxy is asked, in seconds" },
  { name: "resync-seconds", value: "N", fallback: "600", help: "how often everything is looked at again, in seconds" },
  { name: "workers", value: "N", fallback: "4", help: "policies that are reconciled at once" },
  ...WEBHOOK_OPTIONS,
  { name: "metrics", value: "IP:PORT", fallback: ":8080", help: "where /metrics is" },
  { name: "health", value: "IP:PORT", fallback: ":8081", help: "where /livez and /readyz are" },
  { name: "log-level", value: "LEVEL", fallback: "info", help: `log on stderr: ${LOG_LEVELS.join(", ")}` },
  { name: "help", help: "print this" },
];

/** The command line of `outrider operator`, checked. */
export interface OperatorConfig {
  kubeconfig: string | undefined;
  /** Empty: all. */
  namespaces: readonly string[];
  image: string;
  imagePullPolicy: ProxyPods["imagePullPolicy"];
  clusterDomain: string;
  blockedCIDRs: readonly string[];
  discoverCIDRs: boolean;
  grants: Grants;
  leaderElect: boolean;
  leaseNamespace: string | undefined;
  scrape: "direct" | "apiserver";
  /** `*`: all. */
  metricsNamespaces: readonly string[];
  scrapeMs: number;
  resyncMs: number;
  workers: number;
  /** Undefined: pods are not injected. */
  webhook: WebhookConfig | undefined;
  metrics: { host: string; port: number };
  health: { host: string; port: number };
  logLevel: string;
}

const NAME = /^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/;

/** @throws UsageError naming the option. Null: `--help` was asked for */
export function readOperatorConfig(argv: readonly string[], env: NodeJS.ProcessEnv): OperatorConfig | null {
  const { values, positionals } = readOptions(OPERATOR_OPTIONS, argv, env);
  if (values.has("help")) return null;
  noArguments(positionals);
  const one = (name: string) => values.get(name)?.[0];
  const namespaces = values.get("namespaces") ?? [];
  for (const [name, list] of [
    ["namespaces", namespaces],
    ["lease-namespace", values.get("lease-namespace") ?? []],
  ] as const) {
    const bad = list.find((text) => !NAME.test(text));
    if (bad !== undefined) throw new UsageError(`${values.shown(name)} must be a namespace name, not "${bad}"`);
  }
  const metricsNamespaces = values.get("metrics-namespaces") ?? [];
  const stranger = metricsNamespaces.find((text) => text !== "*" && !NAME.test(text));
  if (stranger !== undefined) {
    throw new UsageError(`${values.shown("metrics-namespaces")} must be a namespace name or *, not "${stranger}"`);
  }
  const image = one("proxy-image");
  if (image === undefined) throw new UsageError("--proxy-image IMAGE is required");
  const blockedCIDRs = values.get("blocked-cidrs") ?? [];
  for (const text of blockedCIDRs) {
    const parsed = parseCidr(text);
    if ("error" in parsed) throw new UsageError(`${values.shown("blocked-cidrs")}: ${parsed.error}`);
  }
  const clusterDomain = one("cluster-domain") ?? "cluster.local";
  if (!/^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$/.test(clusterDomain)) {
    throw new UsageError(`${values.shown("cluster-domain")} must be a DNS name, not "${clusterDomain}"`);
  }
  const seconds = (name: string, min: number, fallback: number) =>
    (wholeNumber(values, name, min, 86_400) ?? fallback) * 1000;
  const grants = one("grants");
  return {
    kubeconfig: one("kubeconfig"),
    namespaces: [...new Set(namespaces)],
    image,
    imagePullPolicy: oneOf(values, "proxy-image-pull-policy", ["Always", "IfNotPresent", "Never"]) ?? "IfNotPresent",
    clusterDomain,
    blockedCIDRs,
    discoverCIDRs: (oneOf(values, "discover-cidrs", ["on", "off"]) ?? "on") === "on",
    grants: grants === undefined ? [] : readGrants(grants),
    leaderElect: (oneOf(values, "leader-elect", ["on", "off"]) ?? "on") === "on",
    leaseNamespace: one("lease-namespace"),
    scrape: oneOf(values, "scrape", ["direct", "apiserver"]) ?? "direct",
    metricsNamespaces,
    scrapeMs: seconds("scrape-seconds", 1, 10),
    resyncMs: seconds("resync-seconds", 5, 600),
    workers: wholeNumber(values, "workers", 1, 64) ?? 4,
    webhook: readWebhookConfig(values),
    metrics: ipPort(values, "metrics", ":8080"),
    health: ipPort(values, "health", ":8081"),
    logLevel: oneOf(values, "log-level", LOG_LEVELS) ?? "info",
  };
}
