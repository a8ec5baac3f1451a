import { createHash } from "node:crypto";
import { isIP } from "node:net";
import type { EgressPolicy } from "../api/egresspolicy.ts";
import { ANNOTATION, childName, SERVICE_TLS_PORT } from "../api/names.ts";
import { isRefused, takesPasswords } from "./clients.ts";
import type { EnvVar, PodLike } from "./pod.ts";
import { PRESETS } from "./presets.ts";

/** The proxies that a pod should use. */
export interface InjectionTarget {
  policy: EgressPolicy;
  /** Host of the client Service, such as webhooks-egress.convoy.svc.cluster.local. */
  host: string;
  port: number;
}

/** Both cases with the same value: Go reads the upper case first, and Node, Python, Ruby and curl the lower case. */
export const URL_NAMES = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"] as const;
/** Both cases, as of {@link URL_NAMES}. Hosts that clients reach without the proxy. */
export const NO_PROXY_NAMES = ["NO_PROXY", "no_proxy"] as const;
/** Makes Node's fetch and http read the other variables (Node 22.21 and 24.5). */
export const NODE_NAME = "NODE_USE_ENV_PROXY";
/** Options that every JVM reads. */
export const JAVA_NAME = "JAVA_TOOL_OPTIONS";
/** Both override {@link JAVA_NAME}. The launcher of Java 9 and newer reads the first, and HotSpot the second. */
export const JAVA_STRONGER = ["JDK_JAVA_OPTIONS", "_JAVA_OPTIONS"] as const;
/** Password by secretKeyRef. The URL refers to this variable, so the pod spec contains no password. */
export const PASSWORD_NAME = "EGRESS_PROXY_PASSWORD";
/** Key of the password that is valid for any user name. */
const SHARED_KEY = "PROXY_PASSWORD";
/** User name for that password. Python's urllib and Node's fetch send no credentials for an empty name. */
const SHARED_USER = "outrider";
/** Part of the hash. Increase it when injection changes, so that running pods count as stale. */
const GENERATION = 1;
const HASH_DIGITS = 12;

/** Kubernetes expands `$(NAME)` in values; `$$(` is a literal `$(`. */
const escaped = (text: string): string => text.replaceAll("$(", "$$$$(");

/** Variables for the containers of one pod. */
export interface Wanted {
  /** Must precede every variable that refers to it. */
  password: EnvVar | undefined;
  /** Proxy URLs by the name of their variable. */
  urls: ReadonlyMap<string, string>;
  /** Entries of NO_PROXY. */
  noProxy: readonly string[];
  /** Secret whose key `ca.crt`, if it exists, has the authority of the proxies' certificate. Only with TLS. */
  authority: string | undefined;
}

/**
 * Absolute form of a name, with a dot at its end. Pods have `ndots:5`, so a resolver would first try the name below each
 * search domain. That costs queries, and a wildcard record of such a domain would answer them.
 */
export const absolute = (host: string): string => (isIP(host) !== 0 || host.endsWith(".") ? host : `${host}.`);

const urlOf = (host: string, port: number, credentials: string): string =>
  `http://${credentials}${isIP(host) === 6 ? `[${host}]` : host}:${port}`;

/**
 * URL of the TLS port. Its name has no dot at its end, since httpx compares it with the certificate as it is. Another
 * host, which a resolver could find below a search domain, does not have this certificate.
 */
const tlsUrlOf = (host: string, credentials: string): string => `https://${credentials}${host}:${SERVICE_TLS_PORT}`;

/** Tests whether a value already names the target, in any spelling. */
export interface Own {
  host(host: string): boolean;
  /** True for a URL with injected credentials or none. A URL with another password belongs to the user. */
  url(value: string): boolean;
}

const URL_FORM = /^(?:https?:\/\/)?(?:([^@/]*)@)?(?:\[([0-9a-fA-F:.]+)\]|([^:/@[\]]+)):(\d+)\/?$/;

/** Spellings of the target, and of the policy that a copied pod was injected with before. */
export function ownOf({ policy, host, port }: InjectionTarget, pod: PodLike): Own {
  const [service = "", ...domain] = host.split(".");
  const before = pod.metadata.annotations?.[ANNOTATION.injected]?.split("@")[0];
  const services = [service, ...(before === undefined ? [] : [childName.fleet(before)])];
  const hosts = new Set([host, policy.status?.endpoint?.clusterIP]);
  for (const name of services) {
    for (let labels = 0; labels <= 2; labels++) hosts.add([name, ...domain.slice(0, labels)].join("."));
    hosts.add([name, ...domain].join("."));
  }
  const known = (text: string) => hosts.has(text.toLowerCase().replace(/\.$/, ""));
  return {
    host: known,
    url: (value) => {
      const [, credentials, six, name, digits] = URL_FORM.exec(value) ?? [];
      const ours = credentials === undefined || credentials.endsWith(`:$(${PASSWORD_NAME})`);
      return ours && [port, SERVICE_TLS_PORT].includes(Number(digits)) && known(six ?? name ?? "");
    },
  };
}

/** Variables for a pod with this client name. */
export function wantedOf({ policy, host, port }: InjectionTarget, client: string | undefined): Wanted {
  const { authentication, injection, preset } = policy.spec;
  const basic = takesPasswords(policy.spec) && authentication.secretRef !== undefined;
  const { urls, byAddress, cannotAuthenticate } = PRESETS[preset];
  const credentials = basic ? `${encodeURIComponent(client ?? SHARED_USER)}:$(${PASSWORD_NAME})@` : "";
  const address = byAddress === true ? policy.status?.endpoint?.clusterIP : undefined;
  const usual = injection.tls === true ? tlsUrlOf(host, credentials) : urlOf(absolute(host), port, credentials);
  // A certificate has the name of the Service and no address.
  const own =
    byAddress === true
      ? urlOf(address ?? absolute(host), port, cannotAuthenticate === undefined ? credentials : "")
      : usual;
  const password = {
    name: PASSWORD_NAME,
    valueFrom: { secretKeyRef: { name: authentication.secretRef?.name, key: client ?? SHARED_KEY } },
  };
  return {
    password: basic ? password : undefined,
    urls: new Map([
      ...URL_NAMES.map((name): [string, string] => [name, usual]),
      ...urls.map((name): [string, string] => [name, own]),
    ]),
    noProxy: (injection.noProxy ?? []).map(escaped),
    authority: injection.tls === true ? policy.spec.proxy.tls?.secretRef.name : undefined,
  };
}

/**
 * Annotation of a pod with the current settings: `policy@hash`. The hash covers the settings, and of the pod only which
 * of the listed init containers it has, so that the metadata of a pod shows whether it is current. Undefined if the
 * policy injects nothing. `present`: names of all init containers of the pod; undefined if they are unknown.
 */
export function markerOf(target: InjectionTarget, present?: readonly string[]): string | undefined {
  const { metadata, spec } = target.policy;
  if (spec.injection.mode === "None") return undefined;
  const { password, urls, noProxy, authority } = wantedOf(target, undefined);
  const { containers = [], initContainers: listed = [] } = spec.injection;
  const initContainers = present === undefined ? listed : listed.filter((name) => present.includes(name));
  // A pod with the name of the Service without its last dot is current.
  const plain = [...urls].map(([name, url]) => [name, url.replace(`${target.host}.`, target.host)]);
  const settings: unknown[] = [GENERATION, spec.preset, password ?? null, plain, noProxy, containers, initContainers];
  if (authority !== undefined) settings.push(authority);
  const hash = createHash("sha256").update(JSON.stringify(settings)).digest("hex").slice(0, HASH_DIGITS);
  return `${metadata.name}@${hash}`;
}

/** Expected state of a pod. */
interface Expected {
  marker: string;
  /** The proxies refuse it, whatever its settings are: it needs a certificate, or an entry of `spec.clients`. */
  refused: boolean;
}

/** Expected state of a running pod, by its metadata. Undefined if the policy injects nothing. */
export type ExpectedOf = (pod: Pick<PodLike, "metadata">) => Expected | undefined;

/** Computes each marker of a policy once, since many pods have the same one. */
export function expectedBy(target: InjectionTarget): ExpectedOf {
  const markers = new Map<string | undefined, string | undefined>();
  return (pod) => {
    const names = pod.metadata.annotations?.[ANNOTATION.initContainers];
    if (!markers.has(names)) markers.set(names, markerOf(target, names?.split(",")));
    const marker = markers.get(names);
    return marker === undefined ? undefined : { marker, refused: isRefused(pod, target.policy.spec) };
  };
}
