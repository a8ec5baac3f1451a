import { type Authentication, DEFAULT_CLIENT, readsPasswords } from "../clients.ts";
import { type PolicySet, viewOf } from "../engine.ts";
import type { Side } from "./reach.ts";

/** Clients that a policy treats alike. `other`: clients with a proof of a name that has no entry. */
export type Client = { kind: "named"; name: string } | { kind: "other" | "shared" | "missing" };

type Mode = Authentication["mode"];

/** How a policy admits clients. */
export interface Access {
  /** Null: the policy leaves it to the start options. */
  mode: Mode | null;
  allowMissing: boolean;
  sharedClient: string;
}

/** A compiled policy, and how it admits clients. */
export interface Admitting {
  policy: PolicySet;
  access: Access;
}

/** The set that decides the requests of a client. */
export function sideOf({ policy, access }: Admitting, mode: Mode | null, client: Client): Side {
  const missing = viewOf(policy, { kind: "missing" });
  // Without passwords and certificates a name has no proof.
  if (mode === "None") return missing;
  if (client.kind === "named") return viewOf(policy, { kind: "own", name: client.name });
  if (client.kind === "other") return viewOf(policy, { kind: "own", name: null });
  const readsShared = mode === null || readsPasswords(mode);
  if (client.kind === "shared" && readsShared) return viewOf(policy, { kind: "own", name: access.sharedClient });
  return mode === null || access.allowMissing ? missing : null;
}

/** The clients for which two policies can have different rules. */
export function clientsOf(policies: readonly Admitting[]): Client[] {
  const names = new Set(policies.flatMap(({ policy }) => [...(policy.views?.keys() ?? [])]));
  names.delete(DEFAULT_CLIENT);
  const named = [...names].sort().map((name): Client => ({ kind: "named", name }));
  return [...named, { kind: "other" }, { kind: "shared" }, { kind: "missing" }];
}
