import { type Cidr, formatAddress, isInside, parseAddress, parseCidr } from "../../../proxy/policy/cidr.ts";
import { isSpecialNetwork } from "../../../proxy/policy/special.ts";
import type { EndpointSlice, Node, ServiceCIDR } from "../../api/objects.ts";
import { annotatedAddresses } from "../placement/placement.ts";

/** Sources of the ranges of a cluster. */
interface ClusterRanges {
  nodes: readonly Node[];
  serviceCIDRs: readonly ServiceCIDR[];
  /** Endpoints of `default/kubernetes`: the API server. */
  apiServers: readonly EndpointSlice[];
  /** `--blocked-cidrs`. */
  configured: readonly string[];
}

/** The network of one address; null if the text is no address. */
export function singleAddress(text: string): string | null {
  const address = parseAddress(text);
  return address === null ? null : `${formatAddress(address)}/${address.family === 4 ? 32 : 128}`;
}

/** The network that two halves make, or null. */
function join(a: Cidr, b: Cidr): Cidr | null {
  if (a.family !== b.family || a.prefix !== b.prefix || a.prefix === 0) return null;
  const wide = a.prefix - 1;
  const bit = a.family === 4 ? wide + 96 : wide;
  const word = bit >> 5;
  const mask = 1 << (31 - (bit & 31));
  const differ = a.words.every((w, i) => (i === word ? (w ^ mask) >>> 0 === b.words[i] : w === b.words[i]));
  if (!differ) return null;
  const words = a.words.map((w, i) => (i === word ? (w & ~mask) >>> 0 : w)) as [number, number, number, number];
  const text = `${formatAddress({ family: a.family, words })}/${wide}`;
  return { family: a.family, words, prefix: wide, text };
}

function order(a: Cidr, b: Cidr): number {
  if (a.family !== b.family) return a.family - b.family;
  for (const [i, word] of a.words.entries()) if (word !== b.words[i]) return word - b.words[i]!;
  return a.prefix - b.prefix;
}

/** The fewest networks with the same addresses, sorted. */
export function aggregate(networks: readonly Cidr[]): Cidr[] {
  const stack: Cidr[] = [];
  for (const network of [...networks].sort(order)) {
    const last = stack.at(-1);
    if (last !== undefined && isInside(last, network)) continue;
    let top = network;
    for (let wider = stack.length > 0 ? join(stack.at(-1)!, top) : null; wider !== null; ) {
      stack.pop();
      top = wider;
      wider = stack.length > 0 ? join(stack.at(-1)!, top) : null;
    }
    stack.push(top);
  }
  return stack;
}

/** Whether a network overlaps any network of an aggregated list. */
export function overlaps(aggregated: readonly Cidr[], network: Cidr): boolean {
  let low = 0;
  for (let high = aggregated.length; low < high; ) {
    const middle = (low + high) >>> 1;
    if (order(aggregated[middle]!, network) < 0) low = middle + 1;
    else high = middle;
  }
  const [before, next] = [aggregated[low - 1], aggregated[low]];
  return (before !== undefined && isInside(before, network)) || (next !== undefined && isInside(network, next));
}

/**
 * Ranges of pods, Services, nodes and the API server, without special-purpose ranges, which every proxy blocks anyway.
 * They are aggregated, so that an autoscaler does not change every policy document.
 */
export function blockedRanges({ nodes, serviceCIDRs, apiServers, configured }: ClusterRanges): string[] {
  const texts = [
    ...nodes.flatMap((node) => node.spec?.podCIDRs ?? (node.spec?.podCIDR === undefined ? [] : [node.spec.podCIDR])),
    ...nodes.flatMap((node) => (node.status?.addresses ?? []).map(({ address }) => singleAddress(address))),
    ...nodes.flatMap((node) => annotatedAddresses(node).map(singleAddress)),
    ...serviceCIDRs.flatMap((range) => range.spec?.cidrs ?? []),
    ...apiServers.flatMap((slice) =>
      (slice.endpoints ?? []).flatMap((one) => (one.addresses ?? []).map(singleAddress)),
    ),
    ...configured,
  ];
  const networks = texts
    .filter((text) => text !== null)
    .map(parseCidr)
    .filter((network): network is Cidr => !("error" in network));
  return aggregate(networks.filter((network) => !isSpecialNetwork(network))).map(({ text }) => text);
}
