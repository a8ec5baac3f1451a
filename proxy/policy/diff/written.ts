import type { Layout } from "./cells.ts";
import type { Client } from "./clients.ts";
import type { Difference, PolicyDiff } from "./diff.ts";
import type { Change, Verdict } from "./reach.ts";
import { formatSpans } from "./spans.ts";

/** A difference in JSON. Ranges that are no network are `first-last`. */
export interface WrittenDifference {
  /** Null: all clients. */
  clients: Client[] | null;
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

interface WrittenDiff {
  opens: number;
  closes: number;
  upstreamProxy: PolicyDiff["upstreamProxy"];
  differences: WrittenDifference[];
}

/** `443`, or `8000-8999`. */
export const portText = ([low, high]: readonly [number, number]): string =>
  low === high ? `${low}` : `${low}-${high}`;

/** Texts of the addresses of changes, which many changes share. */
const known = new WeakMap<object, Pick<WrittenDifference, "addresses" | "embedded">>();

function writePlace({ addresses, embedded }: Change): Pick<WrittenDifference, "addresses" | "embedded"> {
  const found = known.get(addresses) ?? {
    addresses: [...formatSpans(4, addresses[4]), ...formatSpans(6, addresses[6])],
    embedded: embedded.map(({ layout, networks, lasts }) => {
      return { layout, networks: formatSpans(6, networks), lasts: formatSpans(4, lasts) };
    }),
  };
  known.set(addresses, found);
  return found;
}

function writeDifference(difference: Difference): WrittenDifference {
  const { clients, change, upstreamProxies, hosts, except, literals, ports } = difference;
  return {
    clients,
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

/** A difference of policies in JSON. */
export function writeDiff({ differences, upstreamProxy }: PolicyDiff): WrittenDiff {
  const written = differences.map(writeDifference);
  const opens = written.filter(({ change }) => change === "opens").length;
  return { opens, closes: written.length - opens, upstreamProxy, differences: written };
}
