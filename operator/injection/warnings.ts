import { isIP } from "node:net";
import { contains, parseAddress, parseCidr } from "../../proxy/policy/cidr.ts";
import { compile, decideName, type PolicySet, viewOf, type Who } from "../../proxy/policy/engine.ts";
import { readManifest } from "../../proxy/policy/policy-file.ts";
import type { EgressPolicy } from "../api/egresspolicy.ts";
import { ANNOTATION, EVENT_REASON, LABEL } from "../api/names.ts";
import { clientOf, isClientName, lacksEntry, takesPasswords } from "./clients.ts";
import { excludes, widens } from "./exclusions.ts";
import { exclusionsOf } from "./java.ts";
import { type Container, isSet, literal, type PodLike, variable } from "./pod.ts";
import { imageOf, isOldConvoy, PRESETS } from "./presets.ts";
import { type InjectionTarget, JAVA_NAME } from "./variables.ts";

/** A warning for the user who creates the pod, and an event. */
export interface Note {
  reason: (typeof EVENT_REASON)[keyof typeof EVENT_REASON];
  message: string;
}

/** Host where Convoy validates its licence, at its start and every ten minutes. */
const LICENCE_HOST = "overwatch.getconvoy.cloud";

/** A note that is useful to know. */
export const hint = (message: string): Note => ({ reason: EVENT_REASON.injectionHint, message });
const incompatible = (message: string): Note => ({ reason: EVENT_REASON.senderIncompatible, message });

/** Cluster domain of a host: `cluster.local` of `webhooks-egress.convoy.svc.cluster.local`. */
export const clusterDomainOf = (host: string): string => host.split(".").slice(3).join(".");

/** Note about entries of NO_PROXY that let tenants bypass the policy. `where`: the place of the entries. */
function wideEntries(where: string, noProxy: readonly string[], { host }: InjectionTarget): Note[] {
  const wide = noProxy.filter((entry) => widens(entry, clusterDomainOf(host)));
  if (wide.length === 0) return [];
  const message = `${where}: tenants' URLs can bypass the proxy to internal services through ${wide.join(", ")}; use exact hosts`;
  return [{ reason: EVENT_REASON.noProxyWidens, message }];
}

/** Why a container is known to ignore the variables; undefined if it is not. */
export function mayIgnore(container: Container, { policy }: InjectionTarget): string | undefined {
  const { name, tag } = imageOf(container);
  if (name === "svix-server" && policy.spec.preset !== "Svix")
    return "svix-server ignores HTTP_PROXY; set preset: Svix";
  if (isOldConvoy(container) && !isSet(variable(container, "CONVOY_LICENSE_KEY"))) {
    const unless = container.envFrom?.length ? ", unless its envFrom has CONVOY_LICENSE_KEY," : "";
    return `Convoy ${tag} without a licence${unless} ignores the proxy variables; use v26.3.6 or newer`;
  }
  return undefined;
}

const sets = new WeakMap<object, PolicySet>();
/**
 * Compiled policy, cached by spec, since a large one takes 0.1 s. Undefined if it is not valid: `Accepted` reports
 * that.
 */
function compiled(policy: EgressPolicy): PolicySet | undefined {
  const known = sets.get(policy.spec);
  if (known !== undefined) return known;
  try {
    const { status: _, ...manifest } = policy;
    const set = compile(readManifest(manifest).document);
    sets.set(policy.spec, set);
    return set;
  } catch {
    return undefined;
  }
}

/** The policy of a pod, and which of its clients the pod is. */
export interface RulesOf {
  policy: EgressPolicy;
  who: Who;
}

/** The rules that decide the requests of a pod. Undefined if the policy is not valid, or has none for the pod. */
export function viewFor({ policy, who }: RulesOf): PolicySet | undefined {
  const set = compiled(policy);
  return set === undefined ? undefined : (viewOf(set, who) ?? undefined);
}

/**
 * Whether Convoy's ip-rules reject the address of the proxy, which they check instead of the target; true if unknown.
 */
function ipRulesRefuse(container: Container, clusterIP: string | undefined): boolean {
  const ip = clusterIP === undefined ? null : parseAddress(clusterIP);
  const covers = (name: string, byDefault: string): boolean | undefined => {
    const entry = variable(container, name);
    if (ip === null || entry?.valueFrom !== undefined) return undefined;
    const networks = (literal(container, name) ?? byDefault).split(",").map((text) => parseCidr(text.trim()));
    if (networks.some((network) => "error" in network)) return undefined;
    return networks.some((network) => !("error" in network) && contains(network, ip));
  };
  const allowed = covers("CONVOY_DISPATCHER_ALLOW_LIST", "0.0.0.0/0,::/0");
  return allowed !== true || covers("CONVOY_DISPATCHER_BLOCK_LIST", "127.0.0.0/8,::1/128") !== false;
}

/** Notes about settings of Convoy. `noProxy`: entries of the injected container. */
function convoyNotes(container: Container, noProxy: readonly string[], rules: RulesOf): Note[] {
  const { policy } = rules;
  const notes: Note[] = [];
  const { name } = container;
  if (isOldConvoy(container) && isSet(variable(container, "CONVOY_LICENSE_KEY")) && noProxy.length > 0) {
    notes.push(incompatible(`container ${name}: Convoy before v26.3.6 ignores NO_PROXY; use v26.3.6 or newer`));
  }
  const clusterIP = policy.status?.endpoint?.clusterIP;
  const flags = literal(container, "CONVOY_ENABLE_FEATURE_FLAG") ?? "";
  if (/\bip-rules\b/.test(flags) && ipRulesRefuse(container, clusterIP)) {
    const range =
      clusterIP === undefined ? "the proxy's address" : `${clusterIP}/${clusterIP.includes(":") ? 128 : 32}`;
    notes.push(
      incompatible(
        `container ${name}: ip-rules checks the address of the proxy; allow ${range} in CONVOY_DISPATCHER_ALLOW_LIST and do not block it`,
      ),
    );
  }
  const collector = collectorOf(literal(container, "CONVOY_OTEL_COLLECTOR_URL"));
  if (collector === undefined || noProxy.some((entry) => excludes(entry, collector.host))) return notes;
  if (!admitsInside(rules, collector)) {
    const { host } = collector;
    notes.push(
      hint(
        `container ${name}: traces to ${host} go through the proxy; allow it in the policy, or add it to injection.noProxy`,
      ),
    );
  }
  return notes;
}

/** Default port of OTLP over gRPC. */
const OTLP_PORT = 4317;

/** Parses the URL of a collector: `otel:4317`, `http://otel:4317/path` or `[fd00::1]:4317`. */
function collectorOf(url: string | undefined): { host: string; port: number } | undefined {
  const authority = url?.replace(/^[a-z+]+:\/\//i, "").replace(/^[^/]*@/, "");
  const [, six, name, port] = /^(?:\[([^\]]*)\]|([^:/]*))(?::(\d+))?/.exec(authority ?? "") ?? [];
  const host = (six ?? name ?? "").toLowerCase();
  return host === "" ? undefined : { host, port: Number(port ?? OTLP_PORT) };
}

/**
 * Whether an allow rule with networks opens an internal target. Only the proxy knows the addresses of a name, so any
 * network of a rule with the name counts.
 */
export function admitsInside(rules: RulesOf, { host, port }: { host: string; port: number }): boolean {
  const set = viewFor(rules);
  if (set === undefined) return false;
  const decision = decideName(set, { host, port, ip: isIP(host) !== 0 });
  if ("code" in decision) return false;
  const address = parseAddress(host);
  return decision.rules.some(({ cidrs }) => cidrs !== null && (address === null || cidrs.has(address)));
}

/** Notes about one injected container. */
export function containerNotes(
  container: Container,
  noProxy: readonly string[],
  { target, rules }: { target: InjectionTarget; rules: RulesOf },
): Note[] {
  const ignores = mayIgnore(container, target);
  return [
    ...(ignores === undefined
      ? []
      : [{ reason: EVENT_REASON.mayIgnoreProxy, message: `container ${container.name}: ${ignores}` }]),
    ...wideEntries(
      `NO_PROXY of container ${container.name}`,
      noProxy.filter((entry) => !target.policy.spec.injection.noProxy?.includes(entry)),
      target,
    ),
    ...(target.policy.spec.preset === "Java" && target.policy.spec.injection.conflictPolicy !== "Overwrite"
      ? wideEntries(
          `http.nonProxyHosts of container ${container.name}`,
          exclusionsOf(literal(container, JAVA_NAME) ?? "", target.policy.spec.injection.noProxy ?? []),
          target,
        )
      : []),
    ...(target.policy.spec.preset === "Convoy" ? convoyNotes(container, noProxy, rules) : []),
  ];
}

/** Notes about TLS to the proxies. */
function tlsNotes({ policy }: InjectionTarget): Note[] {
  const { preset, injection, proxy } = policy.spec;
  const secret = proxy.tls?.secretRef.name;
  if (injection.tls !== true || secret === undefined) return [];
  const note = hint(
    `senders must support https proxy URLs (aiohttp ignores them and sends directly) and trust the proxies; if Secret ${secret} has ca.crt, Node trusts this CA, for targets as well`,
  );
  const { java, byAddress } = PRESETS[preset];
  if (java !== true && byAddress !== true) return [note];
  return [note, hint(`injection.tls does not change the settings of ${preset}: it sends to the proxies without TLS`)];
}

/** Notes about the client of a pod. */
function clientNotes(pod: PodLike, { spec, metadata }: EgressPolicy): Note[] {
  const client = clientOf(pod);
  const { mode } = spec.authentication;
  if (client !== undefined && !takesPasswords(spec)) {
    return [hint(`the client annotation has no effect: the policy's authentication.mode is ${mode}`)];
  }
  if (client !== undefined && !isClientName(client)) {
    return [
      incompatible("the client annotation is not a valid key of a Secret; use letters, digits, '-', '_' and '.'"),
    ];
  }
  if (!lacksEntry(pod, spec)) return [];
  const fix = `set the annotation ${ANNOTATION.client}, or add the client default to ${metadata.name}`;
  return [incompatible(`the proxies refuse the pod: it names no client, and spec.clients has no default; ${fix}`)];
}

/** Notes about the pod and its policy. */
export function policyNotes(pod: PodLike, { target, rules }: { target: InjectionTarget; rules: RulesOf }): Note[] {
  const { policy } = target;
  const { preset, authentication, injection } = policy.spec;
  const notes: Note[] = [];
  const { labels, annotations } = pod.metadata;
  const [byLabel, byAnnotation] = [labels?.[LABEL.policy], annotations?.[LABEL.policy]];
  if (byLabel && byAnnotation && byLabel !== byAnnotation) {
    notes.push(hint(`the label requests policy ${byLabel}, the annotation ${byAnnotation}; the annotation counts`));
  }
  notes.push(...clientNotes(pod, policy));
  notes.push(...wideEntries("spec.injection.noProxy", injection.noProxy ?? [], target));
  const { cannotAuthenticate, byAddress } = PRESETS[preset];
  if (cannotAuthenticate !== undefined && authentication.mode !== "None" && authentication.allowMissing !== true) {
    notes.push(incompatible(`${cannotAuthenticate}, so the proxy rejects it; use authentication.mode: None`));
  }
  if (byAddress === true && policy.status?.endpoint?.clusterIP === undefined) {
    notes.push(incompatible(`the Service has no address yet, and ${preset} rejects its name; restart the pod later`));
  }
  notes.push(...tlsNotes(target));
  if (preset === "Convoy") {
    const set = viewFor(rules);
    const licence = set === undefined ? {} : decideName(set, { host: LICENCE_HOST, port: 443, ip: false });
    if ("code" in licence) {
      notes.push(hint(`a licensed Convoy does not start unless the policy allows ${LICENCE_HOST}:443`));
    }
  }
  return notes;
}
