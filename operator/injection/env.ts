import { isDeepStrictEqual } from "node:util";
import { otherProxyArgument } from "./arguments.ts";
import { CA_FILE, CA_NAME, mountPatch, takesAuthority } from "./authority.ts";
import { exclusionsOf, hasOtherProxy, javaOptions, unsupported } from "./java.ts";
import { type Container, type EnvVar, entries, isSet, type JsonPatch, literal, variable } from "./pod.ts";
import { type Preset, SENDER_NO_PROXY, SENDER_URLS } from "./presets.ts";
import type { Chosen } from "./sidecars.ts";
import {
  absolute,
  type InjectionTarget,
  JAVA_NAME,
  JAVA_STRONGER,
  NO_PROXY_NAMES,
  NODE_NAME,
  type Own,
  PASSWORD_NAME,
  type Wanted,
} from "./variables.ts";

/** Changes to one container, or the reason to skip it. */
type EnvPlan =
  | { patch: JsonPatch[]; noProxy: readonly string[]; hints: string[]; usesAuthority: boolean }
  | { conflict: Conflict };

/** Why a container is skipped, and the fix. */
export interface Conflict {
  why: string;
  fix: string;
}

interface EnvContext {
  target: InjectionTarget;
  preset: Preset;
  wanted: Wanted;
  own: Own;
}

/** Changes to a list of variables. Other variables keep their order, since `$(NAME)` refers to earlier ones only. */
interface Edits {
  env: readonly EnvVar[];
  replaced: Map<number, EnvVar>;
  removed: Set<number>;
  /** Added before all others, which may refer to them. */
  first: EnvVar[];
  /** Added after all others, since they refer to variables of the pod. */
  last: EnvVar[];
}

const isSame = (a: EnvVar | undefined, b: EnvVar): boolean =>
  a !== undefined && (a.value ?? "") === (b.value ?? "") && isDeepStrictEqual(a.valueFrom, b.valueFrom);

/** Sets a variable in its place. The last of several with one name counts; the others are removed. */
function set(edits: Edits, entry: EnvVar): void {
  const at = edits.env.findLastIndex(({ name }) => name === entry.name);
  edits.env.forEach(({ name }, i) => {
    if (name === entry.name && i !== at) edits.removed.add(i);
  });
  if (at !== -1 && !isSame(edits.env[at], entry)) edits.replaced.set(at, entry);
  if (at === -1)
    (entry.value?.includes("$(") && !entry.value.includes(PASSWORD_NAME) ? edits.last : edits.first).push(entry);
}

function remove(edits: Edits, name: string): void {
  edits.env.forEach((entry, i) => {
    if (entry.name === name) edits.removed.add(i);
  });
}

/** Sets the password, which must precede every URL that refers to it. If it does not, it moves to the front. */
function setPassword(edits: Edits, password: EnvVar, urls: ReadonlyMap<string, string>): void {
  const places = edits.env.flatMap(({ name }, i) => (name === PASSWORD_NAME ? [i] : []));
  const uses = edits.env.flatMap(({ name }, i) => (urls.has(name) ? [i] : []));
  const missing = edits.first.some(({ name }) => urls.has(name));
  const [at = -1] = places;
  if (places.length === 1 && isSame(edits.env[at], password) && !missing && uses.every((use) => at < use)) return;
  for (const place of places) edits.removed.add(place);
  edits.first.unshift(password);
}

function patchOf(path: string, { replaced, removed, first, last }: Edits, absent: boolean): JsonPatch[] {
  if (absent) return [{ op: "add", path, value: [...first, ...last] }];
  return [
    ...[...replaced].map(([i, value]): JsonPatch => ({ op: "replace", path: `${path}/${i}`, value })),
    ...[...removed].sort((a, b) => b - a).map((i): JsonPatch => ({ op: "remove", path: `${path}/${i}` })),
    ...first.map((value, i): JsonPatch => ({ op: "add", path: `${path}/${i}`, value })),
    ...last.map((value): JsonPatch => ({ op: "add", path: `${path}/-`, value })),
  ];
}

/** Why a container is skipped as a whole: with only some variables set, http and https would use different paths. */
function conflictOf(container: Container, context: EnvContext): Conflict | undefined {
  const { target, preset } = context;
  const argument = otherProxyArgument(container, context);
  if (argument !== undefined) {
    return { why: `its argument ${argument} overrides the variables`, fix: "remove the argument" };
  }
  // Only the preset Java changes the options of the JVM.
  const options = [...JAVA_STRONGER, ...(preset.java === true ? [] : [JAVA_NAME])];
  const stronger = options.find((name) => hasOtherProxy(literal(container, name) ?? "", context.own));
  if (stronger !== undefined) return { why: `${stronger} sets another proxy`, fix: "remove it" };
  if (preset.java === true && variable(container, JAVA_NAME)?.valueFrom !== undefined) {
    return { why: `${JAVA_NAME} is set by reference, so nothing can be appended`, fix: "set it as a value" };
  }
  if (target.policy.spec.injection.conflictPolicy === "Overwrite") return undefined;
  const why = otherProxy(container, context) ?? nothingProxied(container, context);
  return why === undefined ? undefined : { why, fix: "remove it, or set conflictPolicy: Overwrite" };
}

/** Names that a preset adds, and names of other senders that the container sets: those override the usual ones. */
const withSenders = (container: Container, own: readonly string[], senders: readonly string[]): string[] => [
  ...new Set([...own, ...senders.filter((name) => isSet(variable(container, name)))]),
];

/** Variables of this container that need a proxy URL. */
function urlsOf(container: Container, { urls }: Wanted): ReadonlyMap<string, string> {
  const usual = urls.get("HTTP_PROXY")!;
  return new Map(withSenders(container, [...urls.keys()], SENDER_URLS).map((name) => [name, urls.get(name) ?? usual]));
}

/** Reason to skip a container that excludes every host. */
function nothingProxied(container: Container, { preset }: EnvContext): string | undefined {
  const names = [...NO_PROXY_NAMES, ...SENDER_NO_PROXY];
  const name = names.find((one) => entries(literal(container, one)).includes("*"));
  if (name !== undefined) return `its ${name} contains *, so no request would use the proxy`;
  if (preset.java !== true) return undefined;
  const java = [JAVA_NAME, ...JAVA_STRONGER].find((one) =>
    exclusionsOf(literal(container, one) ?? "", []).includes("*"),
  );
  return java === undefined ? undefined : `${java} contains -Dhttp.nonProxyHosts=*, so no request would use the proxy`;
}

/** Variable that sets another proxy. The message has no values, which may contain passwords. */
function otherProxy(container: Container, { preset, wanted, own }: EnvContext): string | undefined {
  for (const name of urlsOf(container, wanted).keys()) {
    const entry = variable(container, name);
    if (!isSet(entry)) continue;
    if (entry.valueFrom !== undefined) return `${name} is set by reference (${Object.keys(entry.valueFrom)[0]})`;
    if (!own.url(entry.value!.trim())) return `${name} is already set`;
  }
  if (preset.java === true && hasOtherProxy(literal(container, JAVA_NAME) ?? "", own)) {
    return `${JAVA_NAME} sets another proxy`;
  }
  if (wanted.password === undefined) return undefined;
  const password = variable(container, PASSWORD_NAME);
  const secret = (entry: EnvVar) => (entry.valueFrom?.secretKeyRef as { name?: string } | undefined)?.name;
  if (isSet(password) && secret(password) !== secret(wanted.password)) return `${PASSWORD_NAME} is already set`;
  return undefined;
}

/**
 * Sets NO_PROXY in both cases: the entries of the pod and of the policy, or with Overwrite those of the policy alone.
 */
function setNoProxy(edits: Edits, container: Container, { wanted }: EnvContext, overwrite: boolean, hints: string[]) {
  const foreign = NO_PROXY_NAMES.map((name) => variable(container, name)).find(
    (entry) => entry?.valueFrom !== undefined,
  );
  if (foreign !== undefined && !overwrite) {
    // The value is unknown, so both cases get the same reference.
    for (const name of NO_PROXY_NAMES) {
      if (!isSet(variable(container, name))) set(edits, { name, valueFrom: foreign.valueFrom! });
    }
    const adds = wanted.noProxy.length === 0 ? "" : ", and spec.injection.noProxy is not added";
    hints.push(`${foreign.name} is set by reference: hosts that it excludes bypass the proxy${adds}`);
    return NO_PROXY_NAMES.flatMap((name) => entries(literal(container, name)));
  }
  const there = overwrite ? [] : NO_PROXY_NAMES.flatMap((name) => entries(literal(container, name)));
  const all = [...new Set([...there, ...wanted.noProxy])];
  for (const name of NO_PROXY_NAMES) set(edits, { name, value: all.join(",") });
  return all;
}

/** Adds the entries of the policy to the sender's own NO_PROXY variable, which overrides the usual one. */
function setOwnNoProxy(edits: Edits, container: Container, context: EnvContext, overwrite: boolean, hints: string[]) {
  const found: string[] = [];
  for (const name of withSenders(container, context.preset.noProxy, SENDER_NO_PROXY)) {
    const entry = variable(container, name);
    if (entry?.valueFrom !== undefined && !overwrite) {
      hints.push(`${name} is set by reference: hosts that it excludes bypass the proxy`);
      continue;
    }
    const there = overwrite ? [] : entries(literal(container, name));
    const all = [...new Set([...there, ...context.wanted.noProxy])];
    found.push(...there);
    if (all.length > 0) set(edits, { name, value: all.join(",") });
    else if (isSet(entry)) remove(edits, name);
  }
  return found;
}

/** Plans the changes to a container. */
export function planEnv(chosen: Chosen, context: EnvContext): EnvPlan {
  const { path, container } = chosen;
  const conflict = conflictOf(container, context);
  if (conflict !== undefined) return { conflict };
  const { target, preset, wanted } = context;
  const overwrite = target.policy.spec.injection.conflictPolicy === "Overwrite";
  const edits: Edits = { env: container.env ?? [], replaced: new Map(), removed: new Set(), first: [], last: [] };
  const hints: string[] = [];
  const urls = urlsOf(container, wanted);
  for (const [name, value] of urls) set(edits, { name, value });
  const usual = setNoProxy(edits, container, context, overwrite, hints);
  const senders = setOwnNoProxy(edits, container, context, overwrite, hints);
  if (!isSet(variable(container, NODE_NAME))) set(edits, { name: NODE_NAME, value: "1" });
  const usesAuthority = wanted.authority !== undefined && takesAuthority(container);
  if (usesAuthority) set(edits, { name: CA_NAME, value: CA_FILE });
  else if (wanted.authority !== undefined) hints.push(`${CA_NAME} is kept; add the CA of the proxies to its file`);
  if (preset.java === true) {
    const { host, port } = target;
    const options = variable(container, JAVA_NAME)?.value ?? "";
    set(edits, {
      name: JAVA_NAME,
      value: javaOptions(options, { host: absolute(host), port, noProxy: wanted.noProxy, overwrite }),
    });
    const lost = unsupported(wanted.noProxy);
    if (lost.length > 0) hints.push(`Java does not support these entries of noProxy: ${lost.join(", ")}`);
  }
  if (wanted.password !== undefined) setPassword(edits, wanted.password, urls);
  if (container.envFrom?.length) hints.push("the injected variables override proxy variables of its envFrom");
  const patch = patchOf(`${path}/env`, edits, container.env === undefined);
  if (usesAuthority) patch.push(...mountPatch(chosen));
  return { patch, noProxy: [...new Set([...usual, ...senders])], hints, usesAuthority };
}
