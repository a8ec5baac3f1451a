import { isDeepStrictEqual } from "node:util";
import { otherProxyArgument } from "./arguments.ts";
import { exclusionsOf, hasOtherProxy, javaOptions, untold } from "./java.ts";
import { type Container, type EnvVar, entries, isSet, type JsonPatch, literal, variable } from "./pod.ts";
import { type Preset, SENDER_NO_PROXY, SENDER_URLS } from "./presets.ts";
import type { Chosen } from "./sidecars.ts";
import {
  type InjectionTarget,
  JAVA_NAME,
  JAVA_STRONGER,
  NO_PROXY_NAMES,
  NODE_NAME,
  type Own,
  PASSWORD_NAME,
  type Wanted,
} from "./variables.ts";

/** What is to change in one container, or why nothing may. */
export type EnvPlan = { patch: JsonPatch[]; noProxy: readonly string[]; hints: string[] } | { conflict: Conflict };

/** Why a container is left as it is, and what to do about it. */
export interface Conflict {
  why: string;
  mend: string;
}

export interface EnvContext {
  target: InjectionTarget;
  preset: Preset;
  wanted: Wanted;
  own: Own;
}

/** Changes to a list of variables. Untouched ones keep their order, since `$(NAME)` refers to earlier ones only. */
interface Edits {
  env: readonly EnvVar[];
  replaced: Map<number, EnvVar>;
  removed: Set<number>;
  /** Before all others, so that whatever refers to them stands behind. */
  first: EnvVar[];
  /** Behind all others: they refer to variables of the pod. */
  last: EnvVar[];
}

const same = (a: EnvVar | undefined, b: EnvVar): boolean =>
  a !== undefined && (a.value ?? "") === (b.value ?? "") && isDeepStrictEqual(a.valueFrom, b.valueFrom);

/** Sets a variable in its place. Of several with the name the last one counts, and the others go. */
function set(edits: Edits, entry: EnvVar): void {
  const at = edits.env.findLastIndex(({ name }) => name === entry.name);
  edits.env.forEach(({ name }, i) => {
    if (name === entry.name && i !== at) edits.removed.add(i);
  });
  if (at !== -1 && !same(edits.env[at], entry)) edits.replaced.set(at, entry);
  if (at === -1)
    (entry.value?.includes("$(") && !entry.value.includes(PASSWORD_NAME) ? edits.last : edits.first).push(entry);
}

function remove(edits: Edits, name: string): void {
  edits.env.forEach((entry, i) => {
    if (entry.name === name) edits.removed.add(i);
  });
}

/** The password has to stand before every URL that refers to it; where it does not, it moves to the front. */
function setPassword(edits: Edits, password: EnvVar, urls: ReadonlyMap<string, string>): void {
  const places = edits.env.flatMap(({ name }, i) => (name === PASSWORD_NAME ? [i] : []));
  const uses = edits.env.flatMap(({ name }, i) => (urls.has(name) ? [i] : []));
  const missing = edits.first.some(({ name }) => urls.has(name));
  const [at = -1] = places;
  if (places.length === 1 && same(edits.env[at], password) && !missing && uses.every((use) => at < use)) return;
  for (const place of places) edits.removed.add(place);
  edits.first.unshift(password);
}

function patchOf(path: string, { replaced, removed, first, last }: Edits, absent: boolean): JsonPatch[] {
  if (absent) return first.length + last.length === 0 ? [] : [{ op: "add", path, value: [...first, ...last] }];
  return [
    ...[...replaced].map(([i, value]): JsonPatch => ({ op: "replace", path: `${path}/${i}`, value })),
    ...[...removed].sort((a, b) => b - a).map((i): JsonPatch => ({ op: "remove", path: `${path}/${i}` })),
    ...first.map((value, i): JsonPatch => ({ op: "add", path: `${path}/${i}`, value })),
    ...last.map((value): JsonPatch => ({ op: "add", path: `${path}/-`, value })),
  ];
}

/** Why a container is left whole: setting some of its variables would send http one way and https another. */
function conflictOf(container: Container, context: EnvContext): Conflict | undefined {
  const { target, preset } = context;
  const argument = otherProxyArgument(container, context);
  if (argument !== undefined) {
    return { why: `its argument ${argument} wins over variables`, mend: "remove the argument" };
  }
  // Under another preset the JVM's options are not ours to change.
  const options = [...JAVA_STRONGER, ...(preset.java === true ? [] : [JAVA_NAME])];
  const stronger = options.find((name) => hasOtherProxy(literal(container, name) ?? "", context.own));
  if (stronger !== undefined) return { why: `${stronger} has another proxy`, mend: "remove it" };
  if (preset.java === true && variable(container, JAVA_NAME)?.valueFrom !== undefined) {
    return { why: `nothing can be appended to ${JAVA_NAME}, which comes from elsewhere`, mend: "give it as a value" };
  }
  if (target.policy.spec.injection.conflictPolicy === "Overwrite") return undefined;
  const why = otherProxy(container, context) ?? nothingProxied(container, context);
  return why === undefined ? undefined : { why, mend: "remove it, or set conflictPolicy: Overwrite" };
}

/** Names that a preset adds, and those of other senders that the container sets: they win there, whatever the preset. */
const withSenders = (container: Container, own: readonly string[], senders: readonly string[]): string[] => [
  ...new Set([...own, ...senders.filter((name) => isSet(variable(container, name)))]),
];

/** Every variable that is to have a URL in this container. */
function urlsOf(container: Container, { urls }: Wanted): ReadonlyMap<string, string> {
  const usual = urls.get("HTTP_PROXY")!;
  return new Map(withSenders(container, [...urls.keys()], SENDER_URLS).map((name) => [name, urls.get(name) ?? usual]));
}

/** An exclusion of everything. */
function nothingProxied(container: Container, { preset }: EnvContext): string | undefined {
  const names = [...NO_PROXY_NAMES, ...SENDER_NO_PROXY];
  const name = names.find((one) => entries(literal(container, one)).includes("*"));
  if (name !== undefined) return `its ${name} has *, so nothing would go through the proxy`;
  if (preset.java !== true) return undefined;
  const java = [JAVA_NAME, ...JAVA_STRONGER].find((one) =>
    exclusionsOf(literal(container, one) ?? "", []).includes("*"),
  );
  return java === undefined ? undefined : `${java} has -Dhttp.nonProxyHosts=*, so nothing would go through the proxy`;
}

/** What leads the container to another proxy. Values are not told: they may have passwords. */
function otherProxy(container: Container, { preset, wanted, own }: EnvContext): string | undefined {
  for (const [name, url] of urlsOf(container, wanted)) {
    const entry = variable(container, name);
    if (!isSet(entry)) continue;
    if (entry.valueFrom !== undefined) return `${name} comes from elsewhere (${Object.keys(entry.valueFrom)[0]})`;
    if (entry.value !== url && !own.url(entry.value!.trim())) return `${name} is already set`;
  }
  if (preset.java === true && hasOtherProxy(literal(container, JAVA_NAME) ?? "", own)) {
    return `${JAVA_NAME} has another proxy`;
  }
  if (wanted.password === undefined) return undefined;
  const password = variable(container, PASSWORD_NAME);
  const secret = (entry: EnvVar) => (entry.valueFrom?.secretKeyRef as { name?: string } | undefined)?.name;
  if (isSet(password) && secret(password) !== secret(wanted.password)) return `${PASSWORD_NAME} is already set`;
  return undefined;
}

/** NO_PROXY in both cases: what the pod has and what the policy adds, or with Overwrite the policy's alone. */
function setNoProxy(edits: Edits, container: Container, { wanted }: EnvContext, overwrite: boolean, hints: string[]) {
  const foreign = NO_PROXY_NAMES.map((name) => variable(container, name)).find(
    (entry) => entry?.valueFrom !== undefined,
  );
  if (foreign !== undefined && !overwrite) {
    // It cannot be read, so both cases get it as it is.
    for (const name of NO_PROXY_NAMES) {
      if (!isSet(variable(container, name))) set(edits, { name, valueFrom: foreign.valueFrom! });
    }
    const adds = wanted.noProxy.length === 0 ? "" : ", and spec.injection.noProxy is not added";
    hints.push(`${foreign.name} comes from elsewhere: what it excludes goes past the proxy${adds}`);
    return NO_PROXY_NAMES.flatMap((name) => entries(literal(container, name)));
  }
  const there = overwrite ? [] : NO_PROXY_NAMES.flatMap((name) => entries(literal(container, name)));
  const all = [...new Set([...there, ...wanted.noProxy])];
  for (const name of NO_PROXY_NAMES) set(edits, { name, value: all.join(",") });
  return all;
}

/** The sender's own NO_PROXY, which wins over the usual one: the policy's entries are added to it. */
function setOwnNoProxy(edits: Edits, container: Container, context: EnvContext, overwrite: boolean, hints: string[]) {
  const found: string[] = [];
  for (const name of withSenders(container, context.preset.noProxy, SENDER_NO_PROXY)) {
    const entry = variable(container, name);
    if (entry?.valueFrom !== undefined && !overwrite) {
      hints.push(`${name} comes from elsewhere: what it excludes goes past the proxy`);
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

/** What is to change in a container. */
export function planEnv({ path, container }: Chosen, context: EnvContext): EnvPlan {
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
  if (preset.java === true) {
    const { host, port } = target;
    const options = variable(container, JAVA_NAME)?.value ?? "";
    set(edits, { name: JAVA_NAME, value: javaOptions(options, { host, port, noProxy: wanted.noProxy, overwrite }) });
    const lost = untold(wanted.noProxy);
    if (lost.length > 0) hints.push(`Java has no form for these entries of noProxy: ${lost.join(", ")}`);
  }
  if (wanted.password !== undefined) setPassword(edits, wanted.password, urls);
  if (container.envFrom?.length) hints.push("proxy variables of its envFrom, if any, lose to those set here");
  const patch = patchOf(`${path}/env`, edits, container.env === undefined);
  return { patch, noProxy: [...new Set([...usual, ...senders])], hints };
}
