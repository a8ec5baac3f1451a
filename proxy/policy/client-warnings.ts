import { type ClientEntry, DEFAULT_CLIENT } from "./clients.ts";
import type { PolicyDocument } from "./document.ts";
import { namesShown, type Rule, setName } from "./rules.ts";

/** Host sets that no rule of the policy or of a client refers to. */
function unusedSets(document: PolicyDocument): string[] {
  const used = new Set<string>();
  const note = (rules: readonly Rule[] = []) => {
    for (const { hosts = [], except = [] } of rules) {
      for (const list of [hosts, except]) for (const item of list) used.add(setName(item) ?? "");
    }
  };
  note(document.allow);
  note(document.deny);
  for (const { allow, deny } of document.clients ?? []) {
    note(allow);
    note(deny);
  }
  return (document.hostSets ?? []).map(({ name }) => name).filter((name) => !used.has(name));
}

/** Names that differ by case only, each with the first such name. */
function twins(clients: readonly ClientEntry[]): [string, string][] {
  const first = new Map<string, string>();
  const found: [string, string][] = [];
  for (const { name } of clients) {
    const folded = name.toLowerCase();
    const other = first.get(folded);
    if (other === undefined) first.set(folded, name);
    else found.push([other, name]);
  }
  return found;
}

/** Warnings of a document about its clients and host sets. Only modes that read passwords have a shared one. */
export function clientWarnings(document: PolicyDocument): string[] {
  const shared = document.authentication?.mode !== "TLS";
  const warnings = unusedSets(document).map((name) => `hostSets: no rule refers to the set ${name}`);
  const { clients, authentication } = document;
  if (clients === undefined) return warnings;
  for (const [one, other] of twins(clients)) {
    warnings.push(`clients: ${one} and ${other} differ by case only, and are two clients`);
  }
  const fallback = clients.find(({ name }) => name === DEFAULT_CLIENT);
  if (fallback === undefined) {
    const who = shared ? "clients with the shared password and clients without an entry" : "clients without an entry";
    warnings.push(`clients: there is no client default: ${who} are refused; add {name: default} first`);
    return warnings;
  }
  const action = fallback.defaultAction ?? (fallback.allow === undefined ? document.defaultAction : "Deny");
  const others = clients.filter((entry) => entry !== fallback).map(({ name }) => name);
  if (action !== "Deny" && others.length > 0 && (shared || authentication?.allowMissing === true)) {
    const names = namesShown(others).replace("the known ones are ", "");
    warnings.push(
      `clients: the default action of default is ${action}, and a client with the shared password or none is default: ${names} can leave the own entry`,
    );
  }
  return warnings;
}
