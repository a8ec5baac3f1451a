import { type Address, formatAddress } from "../cidr.ts";
import { plainLine } from "../rules.ts";
import { EMBEDDING, specialClass } from "../special.ts";
import type { UpstreamProxy } from "../upstream-proxy.ts";
import { Budget } from "./budget.ts";
import { cellsOf } from "./cells.ts";
import type { Client } from "./clients.ts";
import type { Difference, PolicyDiff } from "./diff.ts";
import type { Change, Verdict } from "./reach.ts";
import { addressOf, formatSpan, formatSpans, joinSpans, type Span, spanOf, without } from "./spans.ts";
import { portText } from "./written.ts";

/** Items of a list that a line shows. */
const MAX_ITEMS = 8;
/** Limit in characters of a name of the policy. */
const MAX_NAME = 100;

/** A list on a line; `max`: of its items. */
export function shown(items: readonly string[], max = MAX_ITEMS): string {
  const first = items.slice(0, max).map((item) => plainLine(item, MAX_NAME));
  return items.length > max ? `${first.join(", ")} and ${items.length - max} more` : first.join(", ");
}

interface Known {
  /** All addresses but those of the layouts that a {@link Change} lists apart. */
  all: Record<4 | 6, Span[]>;
  /** Of these the addresses that need no rule with `cidrs`. */
  open: Record<4 | 6, Span[]>;
}

let known: Known | undefined;

/** Computed at the first use, since each command loads this file: it takes some 8 ms. */
function knownAddresses(): Known {
  if (known !== undefined) return known;
  const { lines } = cellsOf({ all: [], opening: [] }, new Budget(Number.POSITIVE_INFINITY));
  const isOpen = ({ ask }: { ask: Address }): boolean => specialClass(formatAddress(ask)) === null;
  known = {
    all: { 4: joinSpans(lines[4]), 6: joinSpans(lines[6]) },
    open: { 4: joinSpans(lines[4].filter(isOpen)), 6: joinSpans(lines[6].filter(isOpen)) },
  };
  return known;
}

const equal = (a: readonly Span[], b: readonly Span[]): boolean =>
  a.length === b.length && a.every(({ low, high }, i) => low === b[i]!.low && high === b[i]!.high);

/** Special-purpose ranges, each with the name of its class. */
function specials(family: 4 | 6, spans: readonly Span[]): string[] {
  return spans.map((span) => {
    const name = specialClass(formatAddress(addressOf(family, span.high)));
    return `${formatSpan(family, span)}${name === null ? "" : ` (${name})`}`;
  });
}

const NAT64 = spanOf(EMBEDDING.NAT64);

/** Without the NAT64 addresses of these IPv4 addresses, if the others have no NAT64 address either. */
function withoutNat64({ addresses }: Change): Span[] {
  const translated = addresses[4].map(({ low, high }) => ({ low: NAT64.low + low, high: NAT64.low + high }));
  const others = without(addresses[6], [NAT64]);
  const theirs = without(addresses[6], others);
  return equal(theirs, translated) ? others : addresses[6];
}

/** `all`: the public addresses of the family. */
function describeFamily(family: 4 | 6, spans: readonly Span[], all: readonly Span[]): string[] {
  const outside = without(spans, all);
  const inside = without(spans, outside);
  const missing = without(all, inside);
  const name = `public IPv${family} addresses`;
  if (missing.length === 0) return [name, ...specials(family, outside)];
  if (missing.length >= inside.length) return [...formatSpans(family, inside), ...specials(family, outside)];
  return [`${name} except ${shown(formatSpans(family, missing))}`, ...specials(family, outside)];
}

/** The ranges of a change that only a rule with `cidrs` opens, with their classes. */
export function specialRanges(change: Change): string[] {
  const { open } = knownAddresses();
  const ranges = (family: 4 | 6, spans: readonly Span[]) => specials(family, without(spans, open[family]));
  return [...ranges(4, change.addresses[4]), ...ranges(6, withoutNat64(change))];
}

const places = new WeakMap<object, string>();

/** The addresses of a change as a text. Many changes share them. */
function describePlace(change: Change): string {
  const found = places.get(change.addresses) ?? describeAddresses(change);
  places.set(change.addresses, found);
  return found;
}

/** IPv6 addresses that embed an IPv4 address are left out where the line has that address. */
function describeAddresses(change: Change): string {
  const { addresses, embedded } = change;
  const { all, open } = knownAddresses();
  const are = (spansOf: (family: 4 | 6) => readonly Span[]): boolean =>
    ([4, 6] as const).every((family) => equal(addresses[family], spansOf(family)));
  if (are((family) => all[family])) return "all addresses, unchecked";
  if (are((family) => without(all[family], open[family]))) return "all addresses that are not public, unchecked";
  if (are((family) => open[family])) return "public addresses";
  const six = withoutNat64(change);
  const open6 = six === addresses[6] ? open[6] : without(open[6], [NAT64]);
  const parts = [...describeFamily(4, addresses[4], open[4]), ...describeFamily(6, six, open6)];
  if (parts.length > 0) return shown(parts);
  const layouts = new Set(embedded.map(({ layout }) => layout));
  const lasts = joinSpans(embedded.flatMap((one) => one.lasts));
  return `${[...layouts].join(", ")} addresses with ${shown(formatSpans(4, lasts))}`;
}

/** The targets of a difference, without ports. */
export function describeTargets({ hosts, except, literals }: Difference): string {
  const isAny = hosts.length === 1 && hosts[0] === "*";
  const exceptions = except.length === 0 ? "" : ` except ${shown(except)}`;
  if (hosts.length === 0) return "IP targets";
  if (isAny && except.length === 0) return literals ? "any target" : "any name";
  return `${isAny ? "any name" : shown(hosts)}${exceptions}${literals ? "; IP targets" : ""}`;
}

function describePorts(ports: Difference["ports"]): string {
  const list = ports.map(portText);
  if (list.join() === "1-65535") return "all ports";
  return `${list.length === 1 && !list[0]!.includes("-") ? "port" : "ports"} ${shown(list)}`;
}

function describeVerdict({ verdict, code, rule = "", report }: Verdict): string {
  const name = plainLine(rule, MAX_NAME);
  if (verdict === "allow") {
    if (report) return "allowed in Report";
    return rule === "default" ? "allowed by the default action" : `allowed by rule ${name}`;
  }
  switch (code) {
    case "denied-rule":
      return `denied by rule ${name}`;
    case "port":
      return "port not allowed";
    case "client":
      return "client refused";
    case "address":
      return "address class not allowed";
    default:
      return "not on the allow list";
  }
}

/** One difference on a line, without its clients. */
export function describeDifference(difference: Difference): string {
  const { change, ports, upstreamProxies } = difference;
  const sign = change.opens ? "+" : "-";
  const kind = upstreamProxies ? "upstream proxies " : "";
  const what = `${kind}${describeTargets(difference)}, ${describePorts(ports)}, ${describePlace(change)}`;
  return `${sign} ${what}: ${describeVerdict(change.old)} -> ${describeVerdict(change.new)}`;
}

function describeClient(client: Client): string {
  if (client.kind === "named") return client.name;
  return { other: "other clients", shared: "clients with the shared password", missing: "clients without a proof" }[
    client.kind
  ];
}

/** The clients of a difference. */
export const describeClients = (clients: readonly Client[] | null): string =>
  clients === null ? "all clients" : shown(clients.map(describeClient));

function describeWay(proxy: UpstreamProxy | null): string {
  if (proxy === null) return "directly";
  return `through ${proxy.url}${proxy.resolve === "Upstream" ? ", which resolves names" : ""}`;
}

const counted = (count: number, verb: string): string => `${count} ${count === 1 ? `${verb}s` : verb}`;

/** The lines of a difference of policies. */
export function describeDiff({ differences, upstreamProxy }: PolicyDiff): string[] {
  const lines: string[] = [];
  if (upstreamProxy !== null) {
    lines.push(`~ requests leave ${describeWay(upstreamProxy.new)}; before: ${describeWay(upstreamProxy.old)}`);
  }
  const groups = Map.groupBy(differences, ({ clients }) => describeClients(clients));
  const plain = differences.every(({ clients }) => clients === null);
  for (const [clients, list] of groups) {
    if (!plain) lines.push(`${clients}:`);
    for (const one of list) lines.push(`${plain ? "" : "  "}${describeDifference(one)}`);
  }
  const opens = differences.filter(({ change }) => change.opens).length;
  if (differences.length === 0) return [...lines, "no difference: both policies allow the same targets"];
  return [...lines, `${counted(opens, "open")}, ${counted(differences.length - opens, "close")}`];
}
