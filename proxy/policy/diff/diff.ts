import { type CompileOptions, compile, type PolicySet } from "../engine.ts";
import type { PolicySource } from "../policy-file.ts";
import type { PortRange } from "../rules.ts";
import type { UpstreamProxy } from "../upstream-proxy.ts";
import { Budget } from "./budget.ts";
import { type Access, type Admitting, type Client, clientsOf, sideOf } from "./clients.ts";
import { type Names, namesOf } from "./names.ts";
import { type Change, Contents, compareReach, type Reach, type Side } from "./reach.ts";

/** Targets that become reachable or unreachable, and the clients that this concerns. */
export interface Difference extends Targets {
  /** Null: all clients. */
  clients: Client[] | null;
}

/** Names, ports and addresses that change in the same way. */
export interface Targets extends Names {
  change: Change;
  /** Whether the targets are upstream proxies that a request names. */
  upstreamProxies: boolean;
  /** Whether it is about targets that are IP addresses, too. */
  literals: boolean;
  ports: PortRange[];
}

/** The difference of two policies as reach. */
export interface PolicyDiff {
  differences: Difference[];
  /** The upstream proxies of both policies, if they differ. */
  upstreamProxy: { old: UpstreamProxy | null; new: UpstreamProxy | null } | null;
}

const targetsOf = ({ classes, rows }: Reach, upstreamProxies: boolean): Targets[] =>
  rows.map(({ change, ports, names, literals }) => {
    return { ...namesOf(new Set(names), classes), change, upstreamProxies, literals, ports };
  });

/** The mode of a policy. Null: the start options decide. The operator gives a manifest without one the mode None. */
function modeOf({ kind, document, needs }: PolicySource): Access["mode"] {
  if (document.authentication !== undefined) return document.authentication.mode;
  if (kind !== "manifest") return null;
  if (needs.password) return needs.certificate ? "BasicOrTLS" : "Basic";
  return needs.certificate ? "TLS" : "None";
}

/** Compiles a policy that was read. @throws PolicyError when an option is no CIDR */
export function admittingOf(
  source: PolicySource,
  options: Pick<CompileOptions, "allowCIDRs" | "denyCIDRs" | "hash"> = {},
): Admitting {
  const { document, sharedClient } = source;
  const allowMissing = document.authentication?.allowMissing ?? false;
  return {
    policy: compile(document, options),
    access: { mode: modeOf(source), allowMissing, sharedClient: document.authentication?.sharedClient ?? sharedClient },
  };
}

/** Equal differences have equal keys. `place`: the number of its addresses. */
function keyOf({ change, ...rest }: Targets, place: number): string {
  return JSON.stringify([rest, change.old, change.new, place]);
}

/** The set for upstream proxies that a request names. They are resolved here, also if the policy has an upstream proxy. */
function hopsOf(side: Side): Side {
  if (side === null || side.hops === null) return null;
  const { upstreamProxy: _, ...document } = side.hops.document;
  return { ...side.hops, document };
}

/** Widest first: what opens, all clients, many names. */
function compare(a: Difference, b: Difference): number {
  if (a.change.opens !== b.change.opens) return a.change.opens ? -1 : 1;
  if ((a.clients === null) !== (b.clients === null)) return a.clients === null ? -1 : 1;
  const key = ({ clients, upstreamProxies, hosts, ports }: Difference) =>
    JSON.stringify([clients, upstreamProxies, hosts.slice(0, 1), ports]);
  return key(a) < key(b) ? -1 : 1;
}

/**
 * The exact difference of two policies for all clients. Ranges wider than /96 of 64:ff9b:1::/48 that a rule opens are compared
 * by the last 32 bits of their addresses only. A target with several addresses is reachable if one of them is.
 * @throws TooComplexError
 */
export function diffPolicies(old: Admitting, now: Admitting, units: number): PolicyDiff {
  const budget = new Budget(units);
  const contents = new Contents(budget);
  const oldMode = old.access.mode ?? now.access.mode;
  const newMode = now.access.mode ?? old.access.mode;
  const known = new Map<string, Targets[]>();
  const compared = (one: Side, other: Side, upstreamProxies: boolean): Targets[] => {
    const [before, after] = [contents.whole(one), contents.whole(other)];
    if (before === after) return [];
    const key = JSON.stringify([before, after, upstreamProxies]);
    const found =
      known.get(key) ?? targetsOf(compareReach({ old: one, new: other }, contents, budget), upstreamProxies);
    known.set(key, found);
    return found;
  };
  const clients = clientsOf([old, now]);
  const written = new Map<Targets, string>();
  const byText = new Map<string, { targets: Targets; clients: Client[] }>();
  for (const client of clients) {
    const [one, other] = [sideOf(old, oldMode, client), sideOf(now, newMode, client)];
    const all = [...compared(one, other, false), ...compared(hopsOf(one), hopsOf(other), true)];
    for (const targets of all) {
      const text = written.get(targets) ?? keyOf(targets, contents.place(targets.change));
      written.set(targets, text);
      const found = byText.get(text) ?? { targets, clients: [] };
      byText.set(text, found);
      found.clients.push(client);
    }
  }
  const differences = [...byText.values()].map(({ targets, clients: whom }): Difference => {
    return { ...targets, clients: whom.length === clients.length ? null : whom };
  });
  return { differences: differences.sort(compare), upstreamProxy: upstreamProxiesOf(old.policy, now.policy) };
}

function upstreamProxiesOf(old: PolicySet, now: PolicySet): PolicyDiff["upstreamProxy"] {
  const [one, other] = [old, now].map(({ document }) => document.upstreamProxy ?? null) as [
    UpstreamProxy | null,
    UpstreamProxy | null,
  ];
  return JSON.stringify(one) === JSON.stringify(other) ? null : { old: one, new: other };
}
