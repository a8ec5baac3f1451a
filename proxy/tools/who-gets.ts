import { admitsMissing } from "../config/authentication.ts";
import type { Credentials } from "../config/credentials.ts";
import { textOf } from "../config/identity.ts";
import {
  type Authentication,
  type ClientEntry,
  DEFAULT_CLIENT,
  readsCertificates,
  readsPasswords,
} from "../policy/clients.ts";
import type { PolicyDocument } from "../policy/document.ts";
import { plainLine } from "../policy/rules.ts";

/** Limit in characters of a name. */
const MAX_NAME = 100;
/** Limit of the user names in one line. */
const MAX_USERS = 20;

const shown = (name: string): string => plainLine(name, MAX_NAME);

/** The identities that clients can have, by the name of the entry that they get; null: they are refused. */
function identitiesByEntry(
  clients: readonly ClientEntry[],
  credentials: Credentials,
  authentication: Authentication,
): Map<string | null, string[]> {
  const names = new Set(clients.map(({ name }) => name));
  const fallback = names.has(DEFAULT_CLIENT) ? DEFAULT_CLIENT : null;
  const entryOf = (name: string | null) => (name !== null && names.has(name) ? name : fallback);
  const found = new Map<string | null, string[]>();
  const add = (entry: string | null, what: string) => found.set(entry, [...(found.get(entry) ?? []), what]);
  if (readsPasswords(authentication.mode)) {
    const users = new Map<string | null, string[]>();
    for (const user of credentials.users) {
      const entry = entryOf(textOf(user));
      users.set(entry, [...(users.get(entry) ?? []), shown(textOf(user) ?? user)]);
    }
    for (const [entry, list] of users) {
      const more = list.length > MAX_USERS ? ` and ${list.length - MAX_USERS} more` : "";
      add(entry, `the password of ${list.slice(0, MAX_USERS).join(", ")}${more}`);
    }
    if (credentials.shared) add(entryOf(authentication.sharedClient), "the shared password");
  }
  if (readsCertificates(authentication.mode)) {
    for (const name of names) if (name !== DEFAULT_CLIENT) add(name, "a certificate of this name");
    add(fallback, "a certificate of another name");
  }
  if (admitsMissing(authentication)) add(fallback, "requests without a proof");
  return found;
}

function describe({ name, allow = [], deny = [], defaultAction }: ClientEntry, document: PolicyDocument): string {
  const action = defaultAction ?? (allow.length > 0 ? "Deny" : document.defaultAction);
  return `client ${shown(name)}: ${allow.length} allow and ${deny.length} deny rules of its own, default action ${action}`;
}

/** One line for each client of a policy, with the identities that get its rules. Empty without clients. */
export function whoGets(document: PolicyDocument, credentials: Credentials, authentication: Authentication): string[] {
  const { clients } = document;
  if (clients === undefined) return [];
  const found = identitiesByEntry(clients, credentials, authentication);
  const lines = clients.map((entry) => {
    const identities = found.get(entry.name) ?? ["none"];
    return `${describe(entry, document)}; identities: ${identities.join(", ")}`;
  });
  const refused = found.get(null);
  return refused === undefined ? lines : [...lines, `refused: ${refused.join(", ")}`];
}
