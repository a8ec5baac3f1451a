import { nearest } from "../../proxy/policy/rules.ts";
import { ApiError } from "../kube/error.ts";

/** Exit statuses of the commands. */
export const EXIT = { ok: 0, no: 1, usage: 2, failed: 3 } as const;

/** A command cannot answer: exit status 3, one line. */
export class Failure extends Error {}

const DENIED = /cannot (\w+) resource "([^"]+)"(?: in API group "([^"]*)")?(.*)$/s;

/** The right that an answer of the API server says is missing, such as `list pods in the namespace "convoy"`. */
export function missingRight(error: unknown): string | undefined {
  if (!(error instanceof ApiError) || error.code !== 403) return undefined;
  const [, verb, resource, group, where = ""] = DENIED.exec(error.message) ?? [];
  if (verb === undefined) return error.message;
  const scope = /in the namespace "[^"]+"/.exec(where)?.[0] ?? "at the cluster scope";
  return `${verb} ${resource}${group === undefined || group === "" ? "" : `.${group}`} ${scope}`;
}

/** The failure that a user can act on. */
export function failureOf(error: unknown): unknown {
  if (!(error instanceof ApiError)) return error;
  const missing = missingRight(error);
  if (missing !== undefined) return new Failure(`missing right: ${missing} (docs/kubectl.md lists the roles)`);
  if (error.code === 401) return new Failure("the API server rejects the credentials of this context; log in again");
  return new Failure(error.message);
}

/** Names a policy that does not exist, with the nearest one that does. */
export function unknownPolicy(name: string, namespace: string, known: readonly string[]): Failure {
  const meant = nearest(name, known);
  const hint =
    meant !== undefined
      ? `did you mean ${meant}?`
      : known.length === 0
        ? "the namespace has no policy; set -n"
        : `it has ${known.slice(0, 5).join(", ")}${known.length > 5 ? ", ..." : ""}`;
  return new Failure(`policy "${name}" does not exist in namespace ${namespace}; ${hint}`);
}
