import type { PolicySet } from "../engine.ts";
import type { UpstreamProxy } from "../upstream-proxy.ts";
import { Budget } from "./budget.ts";
import type { Layout } from "./cells.ts";
import { type Admitting, type Client, clientsOf, sideOf } from "./clients.ts";
import { type Names, namesOf } from "./names.ts";
import { type Change, Contents, compareReach, type Reach, type Side, type Verdict } from "./reach.ts";
import { formatSpan, type Span } from "./spans.ts";

/** Targets that become reachable (`opens`) or unreachable, and the clients that this concerns. */
export interface Difference {
  opens: boolean;
  /** Null: all clients. */
  clients: Client[] | null;
  /** Whether the targets are upstream proxies that a request names. */
  upstreamProxies: boolean;
  /** Names by pattern. The most specific pattern of `hosts` and `except` decides. */
  hosts: string[];
  except: string[];
  /** Whether it is about targets that are IP addresses, too. */
  literals: boolean;
  ports: string[];
  /** Addresses of these targets: networks, and `first-last`. */
  addresses: { ipv4: string[]; ipv6: string[] };
  /** IPv6 addresses of a layout, by network and last 32 bits (as IPv4 address). */
  embedded: { layout: Layout; networks: string[]; lasts: string[] }[];
  old: Verdict;
  new: Verdict;
}

/** The difference of two policies as reach. */
export interface PolicyDiff {
  differences: Difference[];
  /** The upstream proxies of both policies, if they differ. */
  upstreamProxy: { old: UpstreamProxy | null; new: UpstreamProxy | null } | null;
}

const portText = ([low, high]: readonly [number, number]): string => (low === high ? `${low}` : `${low}-${high}`);

const texts = (family: 4 | 6, spans: readonly Span[]): string[] => spans.map((span) => formatSpan(family, span));

function addressesOf({ addresses, embedded }: Change): Pick<Difference, "addresses" | "embedded"> {
  return {
    addresses: { ipv4: texts(4, addresses[4]), ipv6: texts(6, addresses[6]) },
    embedded: embedded.map(({ layout, networks, lasts }) => ({
      layout,
      networks: texts(6, networks),
      lasts: texts(4, lasts),
    })),
  };
}

type Untold = Omit<Difference, "clients">;

function differencesOf({ classes, rows }: Reach, upstreamProxies: boolean): Untold[] {
  const known = new Map<Change, ReturnType<typeof addressesOf>>();
  return rows.map(({ change, ports, names, literals }): Untold => {
    const addresses = known.get(change) ?? addressesOf(change);
    known.set(change, addresses);
    const { hosts, except }: Names = namesOf(new Set(names), classes);
    return {
      opens: change.opens,
      upstreamProxies,
      hosts,
      except,
      literals,
      ports: ports.map(portText),
      ...addresses,
      old: change.old,
      new: change.new,
    };
  });
}

/** The set for upstream proxies that a request names. They are resolved here, also if the policy has an upstream proxy. */
function hopsOf(side: Side): Side {
  if (side === null || side.hops === null) return null;
  const { upstreamProxy: _, ...document } = side.hops.document;
  return { ...side.hops, document };
}

/** Widest first: what opens, all clients, many names. */
function compare(a: Difference, b: Difference): number {
  if (a.opens !== b.opens) return a.opens ? -1 : 1;
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
  const contents = new Contents();
  const budget = new Budget(units);
  const oldMode = old.access.mode ?? now.access.mode;
  const newMode = now.access.mode ?? old.access.mode;
  const known = new Map<string, Untold[]>();
  const compared = (one: Side, other: Side, upstreamProxies: boolean): Untold[] => {
    const [before, after] = [contents.whole(one), contents.whole(other)];
    if (before === after) return [];
    const key = JSON.stringify([before, after, upstreamProxies]);
    const found =
      known.get(key) ?? differencesOf(compareReach({ old: one, new: other }, contents, budget), upstreamProxies);
    known.set(key, found);
    return found;
  };
  const clients = clientsOf([old, now]);
  const written = new Map<Untold, string>();
  const byText = new Map<string, { untold: Untold; clients: Client[] }>();
  for (const client of clients) {
    const [one, other] = [sideOf(old, oldMode, client), sideOf(now, newMode, client)];
    const all = [...compared(one, other, false), ...compared(hopsOf(one), hopsOf(other), true)];
    for (const untold of all) {
      const text = written.get(untold) ?? JSON.stringify(untold);
      written.set(untold, text);
      const found = byText.get(text) ?? { untold, clients: [] };
      byText.set(text, found);
      found.clients.push(client);
    }
  }
  const differences = [...byText.values()].map(({ untold, clients: whom }): Difference => {
    return { ...untold, clients: whom.length === clients.length ? null : whom };
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
