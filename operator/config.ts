import { readFileSync } from "node:fs";
import { isLoopback } from "../proxy/cli/local-request.ts";
import { LOG_LEVELS } from "../proxy/cli/log.ts";
import {
  ipPort,
  noArguments,
  type Option,
  oneOf,
  readOptions,
  type Values,
  wholeNumber,
} from "../proxy/cli/options.ts";
import { UsageError } from "../proxy/cli/usage-error.ts";
import { parseCidr } from "../proxy/policy/cidr.ts";
import { type Grants, parseGrants } from "./providers/grants.ts";
import type { ProxyPods } from "./reconcile/objects/deployment.ts";
import { objectName, readWebhookConfig, WEBHOOK_OPTIONS, type WebhookConfig } from "./webhook/config.ts";

/** Options of `outrider operator`, in the order of `--help`. */
export const OPERATOR_OPTIONS: readonly Option[] = [
  {
    name: "kubeconfig",
    value: "FILE",
    help: "configuration of the API server (default: in a pod its ServiceAccount, else $KUBECONFIG or ~/.kube/config)",
  },
  { name: "namespaces", value: "NAME", repeat: true, help: "namespaces to watch (default: all)" },
  { name: "proxy-image", value: "IMAGE", help: "image of the proxies (required)" },
  {
    name: "proxy-image-pull-policy",
    value: "Always|IfNotPresent|Never",
    fallback: "IfNotPresent",
    help: "pull policy of the image",
  },
  {
    name: "proxy-image-pull-secrets",
    value: "NAME",
    repeat: true,
    help: "pull secrets of the image, in the namespaces of policies; a policy can set others (default: none)",
  },
  {
    name: "max-upgrading-fleets",
    value: "N",
    fallback: "5",
    help: "most fleets that are not ready at the same time because of a new operator or image; 0: no limit, no pause",
  },
  { name: "cluster-domain", value: "NAME", fallback: "cluster.local", help: "DNS domain of the cluster's Services" },
  {
    name: "blocked-cidrs",
    value: "CIDR",
    repeat: true,
    help: "blocked ranges, besides special-purpose and discovered ones",
  },
  {
    name: "discover-cidrs",
    value: "on|off",
    fallback: "on",
    help: "block the ranges of pods, Services, nodes and the API server, which the operator reads from the API",
  },
  {
    name: "grants",
    value: "FILE",
    help: "permissions for exclusive addresses: YAML, grants: [{namespaces, providers, staticIPs}] (default: none)",
  },
  {
    name: "leader-elect",
    value: "on|off",
    fallback: "on",
    help: "leader election by a Lease, so that only one replica reconciles; off needs a single replica",
  },
  {
    name: "lease-namespace",
    value: "NAME",
    help: "namespace of the Lease and of the records of policies (default: the pod's own, else outrider-system)",
  },
  {
    name: "owner",
    value: "NAME",
    help: "the operator's own Deployment, which becomes the owner of the Lease and of the webhook's Secret (default: none)",
  },
  {
    name: "scrape",
    value: "direct|apiserver",
    fallback: "direct",
    help: "how the operator reads /status of proxies: from their pods, or through the API server (pods/proxy)",
  },
  {
    name: "metrics-namespaces",
    value: "NAME",
    repeat: true,
    help: "namespaces whose pods may reach the admin ports of proxies, besides the operator's own; * for all",
  },
  { name: "scrape-seconds", value: "N", fallback: "10", help: "proxy status polling interval, in seconds" },
  { name: "resync-seconds", value: "N", fallback: "600", help: "full resync interval, in seconds" },
  { name: "workers", value: "N", fallback: "4", help: "number of policies that are reconciled at the same time" },
  ...WEBHOOK_OPTIONS,
  { name: "metrics", value: "IP:PORT", fallback: ":8080", help: "address of /metrics" },
  { name: "health", value: "IP:PORT", fallback: ":8081", help: "address of /livez and /readyz" },
  {
    name: "page",
    value: "IP:PORT",
    help: "loopback address of a page about all policies, for kubectl port-forward (default: none)",
  },
  { name: "log-level", value: "LEVEL", fallback: "info", help: `log on stderr: ${LOG_LEVELS.join(", ")}` },
  { name: "help", help: "print this help" },
];

/** Validated command line of `outrider operator`. */
export interface OperatorConfig {
  kubeconfig: string | undefined;
  /** Empty: all. */
  namespaces: readonly string[];
  image: string;
  imagePullPolicy: ProxyPods["imagePullPolicy"];
  imagePullSecrets: readonly string[];
  /** 0: no limit. */
  maxUpgradingFleets: number;
  clusterDomain: string;
  blockedCIDRs: readonly string[];
  discoverCIDRs: boolean;
  grants: Grants;
  leaderElect: boolean;
  leaseNamespace: string | undefined;
  /** Name of the operator's own Deployment. */
  owner: string | undefined;
  scrape: "direct" | "apiserver";
  /** `*`: all. */
  metricsNamespaces: readonly string[];
  scrapeMs: number;
  resyncMs: number;
  workers: number;
  /** Undefined if the webhook is off. */
  webhook: WebhookConfig | undefined;
  metrics: { host: string; port: number };
  health: { host: string; port: number };
  /** A loopback address. Undefined: no page. */
  page: { host: string; port: number } | undefined;
  logLevel: string;
}

const NAME = /^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/;
/** Name of an object, as of a Secret (RFC 1123 subdomain). */
const SUBDOMAIN = /^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$/;

/** Reads a grants file: `grants: [{namespaces, providers, staticIPs}]`. @throws UsageError with file, field and fix */
function readGrants(file: string): Grants {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (error) {
    throw new UsageError(`--grants ${file}: ${(error as Error).message}`);
  }
  try {
    return parseGrants(text);
  } catch (error) {
    throw new UsageError(`--grants ${file}: ${(error as Error).message.replace(/\s*\n\s*/g, " ")}`);
  }
}

/** Sets the defaults of the option table, which states each of them once. */
function setDefaults(values: Values, options: readonly Option[]): void {
  for (const { name, fallback } of options) {
    if (fallback !== undefined && !values.has(name)) values.set(name, [fallback]);
  }
}

/** Namespaces of an option. `extra`: another allowed value. @throws UsageError with the option */
function namespacesOf(values: Values, name: string, extra?: string): string[] {
  const list = values.get(name) ?? [];
  const bad = list.find((text) => text !== extra && !NAME.test(text));
  if (bad === undefined) return [...new Set(list)];
  const form = extra === undefined ? "a namespace name" : `a namespace name or ${extra}`;
  throw new UsageError(`${values.shown(name)} must be ${form}, not "${bad}"`);
}

/** Secrets of an option. @throws UsageError with the option */
function secretsOf(values: Values, name: string): string[] {
  const list = values.get(name) ?? [];
  const bad = list.find((text) => text.length > 253 || !SUBDOMAIN.test(text));
  if (bad === undefined) return [...new Set(list)];
  throw new UsageError(`${values.shown(name)} must be the name of a Secret, not "${bad}"`);
}

/** Ranges of an option. @throws UsageError with the option */
function rangesOf(values: Values, name: string): readonly string[] {
  const list = values.get(name) ?? [];
  for (const text of list) {
    const parsed = parseCidr(text);
    if ("error" in parsed) throw new UsageError(`${values.shown(name)}: ${parsed.error}`);
  }
  return list;
}

/** DNS domain of an option. @throws UsageError with the option */
function domainOf(values: Values, name: string): string {
  const domain = values.get(name)![0]!;
  if (/^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$/.test(domain)) return domain;
  throw new UsageError(`${values.shown(name)} must be a DNS name, not "${domain}"`);
}

/** Loopback address of an option; undefined if it is not set. @throws UsageError with the option */
function loopbackOf(values: Values, name: string): { host: string; port: number } | undefined {
  const text = values.get(name)?.[0];
  if (text === undefined) return undefined;
  const address = ipPort(values, name, text);
  if (isLoopback(address.host)) return address;
  const why = "the page shows all namespaces without a password";
  throw new UsageError(
    `${values.shown(name)} must be a loopback address such as 127.0.0.1:8082, not "${text}": ${why}`,
  );
}

/** Reads the command line; null for `--help`. @throws UsageError with the option */
export function readOperatorConfig(argv: readonly string[], env: NodeJS.ProcessEnv): OperatorConfig | null {
  const { values, positionals } = readOptions(OPERATOR_OPTIONS, argv, env);
  if (values.has("help")) return null;
  noArguments(positionals);
  setDefaults(values, OPERATOR_OPTIONS);
  const one = (name: string) => values.get(name)?.[0];
  const isOn = (name: string) => oneOf(values, name, ["on", "off"]) === "on";
  const address = (name: string) => ipPort(values, name, one(name)!);
  const seconds = (name: string, min: number) => wholeNumber(values, name, min, 86_400)! * 1000;
  const namespaces = namespacesOf(values, "namespaces");
  const [leaseNamespace] = namespacesOf(values, "lease-namespace");
  const metricsNamespaces = namespacesOf(values, "metrics-namespaces", "*");
  const image = one("proxy-image");
  if (image === undefined) throw new UsageError("--proxy-image IMAGE is required");
  const grants = one("grants");
  return {
    kubeconfig: one("kubeconfig"),
    namespaces,
    image,
    imagePullPolicy: oneOf(values, "proxy-image-pull-policy", ["Always", "IfNotPresent", "Never"])!,
    imagePullSecrets: secretsOf(values, "proxy-image-pull-secrets"),
    blockedCIDRs: rangesOf(values, "blocked-cidrs"),
    maxUpgradingFleets: wholeNumber(values, "max-upgrading-fleets", 0, 10_000)!,
    clusterDomain: domainOf(values, "cluster-domain"),
    discoverCIDRs: isOn("discover-cidrs"),
    grants: grants === undefined ? [] : readGrants(grants),
    leaderElect: isOn("leader-elect"),
    leaseNamespace,
    owner: objectName(values, "owner"),
    scrape: oneOf(values, "scrape", ["direct", "apiserver"])!,
    metricsNamespaces,
    scrapeMs: seconds("scrape-seconds", 1),
    resyncMs: seconds("resync-seconds", 5),
    workers: wholeNumber(values, "workers", 1, 64)!,
    webhook: readWebhookConfig(values),
    metrics: address("metrics"),
    health: address("health"),
    page: loopbackOf(values, "page"),
    logLevel: oneOf(values, "log-level", LOG_LEVELS)!,
  };
}
