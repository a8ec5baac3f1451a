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
  for (const { allow, deny, upstreamProxies } of document.clients ?? []) {
    note(allow);
    note(deny);
    note(upstreamProxies);
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

/** How clients of a proxy may identify themselves. */
export interface Identities {
  /** By a shared password, which proves no name. */
  shared: boolean;
  /** By a password of their own, or a certificate. */
  own: boolean;
  /** Not at all. */
  missing: boolean;
}

/** Lists that the warnings read; a document has them all. */
type Lists = Pick<PolicyDocument, "allow" | "deny" | "defaultAction" | "hostSets" | "clients">;

/**
 * Warnings about names of clients that are easily confused, and about entries that a client can leave for a wider one, by
 * not presenting its proof. `sharedClient`: the client of requests with the shared password.
 */
export function identityWarnings(policy: Lists, who: Identities, sharedClient: string): string[] {
  const clients = policy.clients ?? [];
  const confused = twins(clients).map(
    ([one, other]) => `clients: ${one} and ${other} differ by case only, and are two clients`,
  );
  if (!who.own) return confused;
  const warnings: string[] = [];
  const reached = new Map<ClientEntry, string>();
  const named = (name: string) => clients.find((entry) => entry.name === name);
  const fallback = named(DEFAULT_CLIENT);
  const byPassword = named(sharedClient) ?? fallback;
  if (who.missing && fallback !== undefined) reached.set(fallback, "without a proof");
  if (who.shared && byPassword !== undefined) {
    reached.set(
      byPassword,
      reached.has(byPassword) ? "with the shared password or without a proof" : "with the shared password",
    );
  }
  for (const [wide, how] of reached) {
    const action = wide.defaultAction ?? (wide.allow === undefined ? policy.defaultAction : "Deny");
    const others = clients.filter((entry) => entry !== fallback && !reached.has(entry)).map(({ name }) => name);
    if (action === "Deny" || others.length === 0) continue;
    warnings.push(
      `clients: ${namesShown(others)} can avoid the rules of their entry: a client ${how} gets ${wide.name}, whose default action is ${action}`,
    );
  }
  return [...warnings, ...confused];
}

/**
 * Warnings of a document about its clients and host sets, the most important ones first. Only modes that read passwords
 * have a shared one.
 */
export function clientWarnings(document: PolicyDocument): string[] {
  const unused = unusedSets(document).map((name) => `hostSets: no rule refers to the set ${name}`);
  const { clients, authentication } = document;
  if (clients === undefined) return unused;
  const warnings: string[] = [];
  const shared = authentication?.mode !== "TLS";
  if (!clients.some(({ name }) => name === DEFAULT_CLIENT)) {
    const who = shared ? "clients with the shared password and clients without an entry" : "clients without an entry";
    warnings.push(`clients: there is no client default: ${who} are refused; add {name: default} first`);
  }
  const who = { shared, own: true, missing: authentication?.allowMissing ?? false };
  const others = identityWarnings(document, who, authentication?.sharedClient ?? DEFAULT_CLIENT);
  return [...warnings, ...others, ...unused];
}
