import type { Layout } from "./cells.ts";
import type { Client } from "./clients.ts";
import type { Difference, PolicyDiff, Targets } from "./diff.ts";
import type { Change, Verdict } from "./reach.ts";
import { formatSpan, type Span } from "./spans.ts";

/** Targets of a difference in JSON. Ranges that are no network are `first-last`. */
interface WrittenTargets {
  change: "opens" | "closes";
  /** Whether the targets are upstream proxies that a request names. */
  upstreamProxies: boolean;
  /** Names by pattern. The most specific pattern of `hosts` and `except` decides. */
  hosts: string[];
  except: string[];
  /** Whether it is about targets that are IP addresses, too. */
  literals: boolean;
  ports: string[];
  /** Addresses of these targets. */
  addresses: string[];
  /** IPv6 addresses of a layout by network, and their last 32 bits as an IPv4 address. */
  embedded: { layout: Layout; networks: string[]; lasts: string[] }[];
  old: Verdict;
  new: Verdict;
}

/** `clients` null: all clients. */
export type WrittenDifference = { clients: Client[] | null } & WrittenTargets;

interface WrittenDiff {
  opens: number;
  closes: number;
  upstreamProxy: PolicyDiff["upstreamProxy"];
  differences: WrittenDifference[];
}

/** `443`, or `8000-8999`. */
export const portText = ([low, high]: readonly [number, number]): string =>
  low === high ? `${low}` : `${low}-${high}`;

const texts = (family: 4 | 6, spans: readonly Span[]): string[] => spans.map((span) => formatSpan(family, span));

/** Texts of the addresses of changes, which many changes share. */
const known = new WeakMap<object, Pick<WrittenTargets, "addresses" | "embedded">>();

function writePlace({ addresses, embedded }: Change): Pick<WrittenTargets, "addresses" | "embedded"> {
  const found = known.get(addresses) ?? {
    addresses: [...texts(4, addresses[4]), ...texts(6, addresses[6])],
    embedded: embedded.map(({ layout, networks, lasts }) => {
      return { layout, networks: texts(6, networks), lasts: texts(4, lasts) };
    }),
  };
  known.set(addresses, found);
  return found;
}

function writeTargets({ change, upstreamProxies, hosts, except, literals, ports }: Targets): WrittenTargets {
  return {
    change: change.opens ? "opens" : "closes",
    upstreamProxies,
    hosts,
    except,
    literals,
    ports: ports.map(portText),
    ...writePlace(change),
    old: change.old,
    new: change.new,
  };
}

const writeDifference = (difference: Difference): WrittenDifference => {
  return { clients: difference.clients, ...writeTargets(difference) };
};

/** A difference of policies in JSON. */
export function writeDiff({ differences, upstreamProxy }: PolicyDiff): WrittenDiff {
  const written = differences.map(writeDifference);
  const opens = written.filter(({ change }) => change === "opens").length;
  return { opens, closes: written.length - opens, upstreamProxy, differences: written };
}
