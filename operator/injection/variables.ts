import { createHash } from "node:crypto";
import { isIP } from "node:net";
import type { EgressPolicy } from "../api/egresspolicy.ts";
import { ANNOTATION, childName } from "../api/names.ts";
import type { EnvVar, PodLike } from "./pod.ts";
import { PRESETS } from "./presets.ts";

/** Where a pod is to send. */
export interface InjectionTarget {
  policy: EgressPolicy;
  /** Host of the client Service, such as webhooks-egress.convoy.svc.cluster.local. */
  host: string;
  port: number;
}

/** Both cases, always with one value: Go reads the upper one first, Node, Python, Ruby and curl the lower one. */
export const URL_NAMES = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"] as const;
export const NO_PROXY_NAMES = ["NO_PROXY", "no_proxy"] as const;
/** Makes Node's fetch and http read the others (Node 22.21 and 24.5). */
export const NODE_NAME = "NODE_USE_ENV_PROXY";
export const JAVA_NAME = "JAVA_TOOL_OPTIONS";
/** Both win over {@link JAVA_NAME}: the launcher of Java 9 and newer reads the one, HotSpot the other. */
export const JAVA_STRONGER = ["JDK_JAVA_OPTIONS", "_JAVA_OPTIONS"] as const;
/** Holds the password, by secretKeyRef: the URL refers to it, so no password stands in the pod. */
export const PASSWORD_NAME = "EGRESS_PROXY_PASSWORD";
/** The key whose password any user name has. */
const SHARED_KEY = "PROXY_PASSWORD";
/** The user name then: Python's urllib and Node's fetch send no credentials at all for an empty one. */
const SHARED_USER = "outrider";
/** Part of the hash: raise it when what is injected changes its meaning, so that running pods count as stale. */
const GENERATION = 1;
const HASH_DIGITS = 12;

/** Kubernetes expands `$(NAME)` in values; `$$(` is a literal `$(`. */
const escaped = (text: string): string => text.replaceAll("$(", "$$$$(");

/** What a policy wants in the containers of one pod. */
export interface Wanted {
  /** Has to stand before every variable that refers to it. */
  password: EnvVar | undefined;
  /** Variables that take a proxy URL, and the URL. */
  urls: ReadonlyMap<string, string>;
  /** Entries of NO_PROXY. */
  noProxy: readonly string[];
}

const urlOf = (host: string, port: number, credentials: string): string =>
  `http://${credentials}${isIP(host) === 6 ? `[${host}]` : host}:${port}`;

/** Answers whether a value leads to the target already, in whatever spelling. */
export interface Own {
  host(host: string): boolean;
  /** A URL, with our credentials or none; with a password of its own it is not ours to touch. */
  url(value: string): boolean;
}

const URL_FORM = /^(?:http:\/\/)?(?:([^@/]*)@)?(?:\[([0-9a-fA-F:.]+)\]|([^:/@[\]]+)):(\d+)\/?$/;

/** The target's spellings, and those of the policy that a copied pod was injected for before. */
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
      return ours && Number(digits) === port && known(six ?? name ?? "");
    },
  };
}

/** The client's name, as the pod's annotation has it. */
export function clientOf(pod: PodLike): string | undefined {
  return pod.metadata.annotations?.[ANNOTATION.client]?.trim() || undefined;
}

/** Whether a client's name can be a key of a Secret, and so a client. */
export function isClientName(client: string): boolean {
  return client.length <= 253 && /^[-._A-Za-z0-9]+$/.test(client);
}

/** What is wanted in a pod whose client's name this is. */
export function wantedOf({ policy, host, port }: InjectionTarget, client: string | undefined): Wanted {
  const { authentication, injection, preset } = policy.spec;
  const basic = authentication.mode === "Basic" && authentication.secretRef !== undefined;
  const { urls, byAddress, cannotAuthenticate } = PRESETS[preset];
  const credentials = basic ? `${encodeURIComponent(client ?? SHARED_USER)}:$(${PASSWORD_NAME})@` : "";
  const address = byAddress === true ? policy.status?.endpoint?.clusterIP : undefined;
  const own = urlOf(address ?? host, port, cannotAuthenticate === undefined ? credentials : "");
  const password = {
    name: PASSWORD_NAME,
    valueFrom: { secretKeyRef: { name: authentication.secretRef?.name, key: client ?? SHARED_KEY } },
  };
  return {
    password: basic ? password : undefined,
    urls: new Map([
      ...URL_NAMES.map((name): [string, string] => [name, urlOf(host, port, credentials)]),
      ...urls.map((name): [string, string] => [name, own]),
    ]),
    noProxy: (injection.noProxy ?? []).map(escaped),
  };
}

/**
 * The annotation of a pod that has what the policy wants now: `policy@hash`. The hash is over the settings alone, not over
 * the pod, so that the metadata of a pod tells whether it is current. Undefined where the policy injects nothing.
 */
export function markerOf(target: InjectionTarget): string | undefined {
  const { metadata, spec } = target.policy;
  if (spec.injection.mode === "None") return undefined;
  const { password, urls, noProxy } = wantedOf(target, undefined);
  const { containers = [], initContainers = [] } = spec.injection;
  const settings = [GENERATION, spec.preset, password ?? null, [...urls], noProxy, containers, initContainers];
  const hash = createHash("sha256").update(JSON.stringify(settings)).digest("hex").slice(0, HASH_DIGITS);
  return `${metadata.name}@${hash}`;
}
