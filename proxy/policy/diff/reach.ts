import type { Address, CidrSet } from "../cidr.ts";
import {
  type CompiledRule,
  decideName,
  hostFits,
  type PolicySet,
  portFits,
  sendsName,
  vetAll,
  vetName,
} from "../engine.ts";
import { HostName, type HostSet } from "../host.ts";
import type { PortRange } from "../rules.ts";
import { forms, isLoopback, neverAllowed, specialPurpose } from "../special.ts";
import type { Target } from "../target.ts";
import { type Budget, unitsFor } from "./budget.ts";
import { type Cells, cellsOf, type Layout, type Plane } from "./cells.ts";
import { classesOf, type NameClass } from "./names.ts";
import { addressOf, joinSpans, type Span } from "./spans.ts";

/** Why a set allows or denies a target. */
export interface Verdict {
  verdict: "allow" | "deny";
  code?: string;
  rule?: string;
  /** Report lets it pass. */
  report?: true;
}

/** The set of a client. Null: the client is refused. */
export type Side = PolicySet | null;

/** Addresses that become reachable, or unreachable. */
export interface Change {
  opens: boolean;
  old: Verdict;
  new: Verdict;
  addresses: Record<4 | 6, Span[]>;
  embedded: Embedded[];
}

/** IPv6 addresses of a layout in these networks, by their last 32 bits. */
export interface Embedded {
  layout: Layout;
  networks: Span[];
  lasts: Span[];
}

/** A change with its targets. */
export interface ReachRow {
  change: Change;
  ports: PortRange[];
  /** Classes of names of the result's `classes`. */
  names: NameClass[];
  /** Whether the row is about targets that are IP addresses, too. */
  literals: boolean;
}

/** The difference of two sets: rows, and all classes of names that they refer to. */
export interface Reach {
  classes: NameClass[];
  rows: ReachRow[];
}

const LAST_PORT = 65535;
/** So many items of other work than questions take one unit. */
const PER_UNIT = { rules: 16, patterns: 8, lookups: 32 };
/** Sweeps in memory: one has up to some 10 MB. */
const MAX_SWEEPS = 4;
const REFUSED: Verdict = { verdict: "deny", code: "client" };

const rulesOf = (side: Side): CompiledRule[] =>
  side === null ? [] : [...side.deny, ...side.ownDeny, ...side.allow, side.fallback];

/**
 * Numbers for contents, so that equal rules of both policies have the same. Equal patterns get two numbers if one of both
 * rules has them in a shared set.
 */
export class Contents {
  readonly #budget: Budget;
  readonly #numbers = new Map<string, number>();
  readonly #known = new WeakMap<object, number>();

  constructor(budget: Budget) {
    this.#budget = budget;
  }

  #number(key: string): number {
    const found = this.#numbers.get(key) ?? this.#numbers.size;
    this.#numbers.set(key, found);
    return found;
  }

  #once(object: object, key: () => string): number {
    const found = this.#known.get(object) ?? this.#number(key());
    this.#known.set(object, found);
    return found;
  }

  hosts(set: HostSet | null): number {
    if (set === null) return -1;
    return this.#once(set, () => {
      const shared = set.shared.map((one) => this.hosts(one));
      return `hosts ${[...set.patterns()].sort().join()} ${shared.sort().join()}`;
    });
  }

  cidrs(set: CidrSet | null): number {
    if (set === null) return -1;
    const words = ([low, high]: readonly [Address, Address]) => `${low.words.join()}-${high.words.join()}`;
    return this.#once(
      set,
      () => `cidrs ${[...set.intervals(4)].map(words).join(";")} ${[...set.intervals(6)].map(words).join(";")}`,
    );
  }

  rule(rule: CompiledRule): number {
    return this.#once(rule, () => {
      const { hosts, except, cidrs, ports, opens } = rule;
      return `rule ${this.hosts(hosts)} ${this.hosts(except)} ${this.cidrs(cidrs)} ${JSON.stringify(ports)} ${opens}`;
    });
  }

  /** The addresses of a change. */
  place({ addresses, embedded }: Change): number {
    return this.#once(addresses, () => {
      const layouts = embedded.map(({ layout, networks, lasts }) => `${layout} ${textOf(networks)} ${textOf(lasts)}`);
      return `place ${[textOf(addresses[4]), textOf(addresses[6]), ...layouts].join("|")}`;
    });
  }

  /** All of a set that its decisions depend on, besides its rules. */
  settings(side: Side): string {
    if (side === null) return "refused";
    const { report, defaultAction, staticFamilies, document } = side;
    const sets = [side.allowCIDRs, side.denyCIDRs, side.blocked, side.own, side.statics].map((set) => this.cidrs(set));
    const sends = document.upstreamProxy?.resolve === "Upstream";
    const passes = defaultAction !== "Deny";
    const ports = passes ? side.fallback.ports : null;
    return JSON.stringify([report, passes, ports, [...staticFamilies].sort(), sets, sends]);
  }

  /** Everything that the decisions of a set depend on. */
  whole(side: Side): string {
    if (side === null) return "refused";
    this.#budget.spend(rulesOf(side).length / PER_UNIT.rules);
    const lists = [side.deny, side.ownDeny, side.allow].map((rules) =>
      [...new Set(rules.map((rule) => this.rule(rule)))].sort((a, b) => a - b).join(),
    );
    return [this.settings(side), ...lists].join("|");
  }
}

interface Both {
  old: Side;
  new: Side;
}

/** Verdicts, each as one object. */
class Verdicts {
  readonly #known = new Map<string, Verdict>();

  of({ rule, refusal, wouldDeny }: ReturnType<typeof vetName>): Verdict {
    const key =
      refusal === undefined
        ? `${wouldDeny?.rule ?? rule} ${wouldDeny === undefined}`
        : `${refusal.code} ${refusal.rule}`;
    const known = this.#known.get(key);
    if (known !== undefined) return known;
    const report = wouldDeny === undefined ? {} : { report: true as const };
    const made: Verdict =
      refusal === undefined
        ? { verdict: "allow", rule: wouldDeny?.rule ?? rule, ...report }
        : { verdict: "deny", code: refusal.code, ...(refusal.rule === undefined ? {} : { rule: refusal.rule }) };
    this.#known.set(key, made);
    return made;
  }
}

/** The verdict of one side about a target on one port, by address. */
function judgeOf(side: Side, target: Target, verdicts: Verdicts): (address: Address) => Verdict {
  if (side === null) return () => REFUSED;
  const stage = decideName(side, target);
  if ("code" in stage) {
    const refused = verdicts.of({ rule: "", refusal: stage });
    return () => refused;
  }
  if (sendsName(side, target)) {
    const sent = verdicts.of(vetName(side, target, stage));
    return () => sent;
  }
  return (address) => verdicts.of(vetAll(side, target, stage, [address]));
}

/** The class of an address for rules: equal texts get equal verdicts. */
function signatureOf(sets: readonly CidrSet[], address: Address): string {
  const special = (form: Address): string => {
    const never = neverAllowed(form);
    if (never !== undefined) return isLoopback(never) ? "L" : "N";
    return specialPurpose(form) === undefined ? "" : "S";
  };
  return forms(address)
    .map((form) => sets.map((set) => (set.has(form) ? 1 : 0)).join("") + special(form))
    .join(" ");
}

const textOf = (spans: readonly Span[]): string => spans.map(({ low, high }) => `${low}-${high}`).join();

/** The same addresses in fewer items: those of equal networks become one, then those of equal last 32 bits. */
function joinEmbedded(items: readonly Embedded[]): Embedded[] {
  const byNetworks = Map.groupBy(items, ({ layout, networks }) => `${layout} ${textOf(networks)}`);
  const joined = [...byNetworks.values()].map((alike): Embedded => {
    return { ...alike[0]!, lasts: joinSpans(alike.flatMap(({ lasts }) => lasts)) };
  });
  const byLasts = Map.groupBy(joined, ({ layout, lasts }) => `${layout} ${textOf(lasts)}`);
  return [...byLasts.values()].map((alike): Embedded => {
    return { ...alike[0]!, networks: joinSpans(alike.flatMap(({ networks }) => networks)) };
  });
}

/** Collects cells by their pair of verdicts. */
class Changes {
  readonly #found = new Map<Verdict, Map<Verdict, Change>>();

  at(old: Verdict, now: Verdict): Change | null {
    if (old.verdict === now.verdict) return null;
    const byNew = this.#found.get(old) ?? new Map<Verdict, Change>();
    this.#found.set(old, byNew);
    const found = byNew.get(now) ?? {
      opens: now.verdict === "allow",
      old,
      new: now,
      addresses: { 4: [], 6: [] },
      embedded: [],
    };
    byNew.set(now, found);
    return found;
  }

  all(): Change[] {
    return [...this.#found.values()]
      .flatMap((byNew) => [...byNew.values()])
      .map((change) => ({
        ...change,
        addresses: { 4: joinSpans(change.addresses[4]), 6: joinSpans(change.addresses[6]) },
        embedded: joinEmbedded(change.embedded),
      }));
  }
}

/** The address space for some rules, and the decisions of both sides about it. */
class AddressSweep {
  readonly #sets: readonly CidrSet[];
  readonly #cells: Cells;
  readonly #budget: Budget;
  readonly #lastKeys = new Map<bigint, string>();
  readonly #networkKeys = new Map<bigint, string>();

  constructor(sets: readonly CidrSet[], opening: readonly CidrSet[], budget: Budget) {
    this.#sets = sets;
    this.#cells = cellsOf({ all: sets, opening }, budget);
    this.#budget = budget;
  }

  /** `units`: of one question. */
  run(old: (address: Address) => Verdict, now: (address: Address) => Verdict, units: number): Change[] {
    const changes = new Changes();
    const { lines, planes } = this.#cells;
    this.#budget.spend((lines[4].length + lines[6].length) * units);
    for (const family of [4, 6] as const) {
      for (const { low, high, ask } of lines[family]) {
        changes.at(old(ask), now(ask))?.addresses[family].push({ low, high });
      }
    }
    const layouts = Map.groupBy(planes, ({ layout }) => layout);
    for (const [layout, all] of layouts)
      this.#sweepPlanes(layout, all, units, (address) => changes.at(old(address), now(address)));
    return changes.all();
  }

  #networkKey(block: bigint): string {
    const found = this.#networkKeys.get(block) ?? signatureOf(this.#sets, addressOf(6, block));
    this.#networkKeys.set(block, found);
    return found;
  }

  /** With the inverted address, which Teredo embeds. */
  #lastKey(last: bigint): string {
    const found =
      this.#lastKeys.get(last) ??
      [last, 0xffffffffn - last].map((word) => signatureOf(this.#sets, addressOf(4, word))).join("|");
    this.#lastKeys.set(last, found);
    return found;
  }

  /** Asks once for each pair of the signatures of network and last 32 bits. */
  #sweepPlanes(
    layout: Layout,
    planes: readonly Plane[],
    units: number,
    ask: (address: Address) => Change | null,
  ): void {
    // The IPv4 addresses of local-use NAT64 overlap the network, so equal signatures of both prove nothing.
    const isLocal = layout === "local-use NAT64";
    const networkKey = ({ block, span }: Plane) => (isLocal ? `${span.low}` : this.#networkKey(block));
    const lastKey = (low: bigint): string => (isLocal ? `${low}` : this.#lastKey(low));
    const lists = new Map<readonly Span[], Map<string, Span[]>>();
    const lastsOf = (lasts: readonly Span[]) => {
      const found = lists.get(lasts) ?? Map.groupBy(lasts, ({ low }) => lastKey(low));
      lists.set(lasts, found);
      return found;
    };
    for (const alike of Map.groupBy(planes, (plane) => `${networkKey(plane)} ${lasts(plane)}`).values()) {
      const [{ block, lasts: all }] = alike as [Plane, ...Plane[]];
      const groups = lastsOf(all);
      this.#budget.spend(groups.size * units);
      const found = new Map<Change, Span[]>();
      for (const spans of groups.values()) {
        const change = ask(addressOf(6, block + spans[0]!.low));
        if (change !== null) found.set(change, [...(found.get(change) ?? []), ...spans]);
      }
      const networks = joinSpans(alike.map(({ span }) => span));
      for (const [change, spans] of found) change.embedded.push({ layout, networks, lasts: joinSpans(spans) });
    }
  }
}

/** Which intervals of the last 32 bits a plane has: all planes of a layout but the parts of single networks have the same. */
const lasts = ({ lasts: all }: Plane): string => `${all.length} ${all[0]?.low} ${all[0]?.high}`;

/** The intervals of ports that the rules treat alike. */
function portsOf(rules: readonly CompiledRule[]): PortRange[] {
  const starts = new Set([1]);
  for (const { ports } of rules) for (const [low, high] of ports ?? []) starts.add(low).add(high + 1);
  const sorted = [...starts].filter((start) => start <= LAST_PORT).sort((a, b) => a - b);
  return sorted.map((low, i) => [low, (sorted[i + 1] ?? LAST_PORT + 1) - 1]);
}

function joinPorts(ports: readonly PortRange[]): PortRange[] {
  const joined: [number, number][] = [];
  for (const [low, high] of ports) {
    const last = joined.at(-1);
    if (last !== undefined && last[1] === low - 1) last[1] = high;
    else joined.push([low, high]);
  }
  return joined;
}

type Labels = Record<keyof Both, readonly string[]>;

/** The decision of the name stage, with the positions of rules instead of their labels. */
function stageOf(side: Side, target: Target, labels: readonly string[]): string {
  if (side === null) return "";
  const decided = decideName(side, target);
  const at = ({ code, rule = "" }: { code: string; rule?: string }) => `${code} ${labels.indexOf(rule)}`;
  if ("code" in decided) return at(decided);
  return decided.overridden === undefined ? "" : `${at(decided.overridden)} in Report`;
}

/** The same change by other rules, whose labels are in the same places. */
function relabel(change: Change, from: Labels, to: Labels): Change {
  const renamed = (side: keyof Both): Verdict => {
    const verdict = change[side];
    const at = verdict.rule === undefined ? -1 : from[side].indexOf(verdict.rule);
    return at === -1 ? verdict : { ...verdict, rule: to[side][at]! };
  };
  return { ...change, old: renamed("old"), new: renamed("new") };
}

/** Compares two sets. */
class Comparison {
  readonly #sides: Both;
  readonly #contents: Contents;
  readonly #budget: Budget;
  readonly #rules: Record<keyof Both, CompiledRule[]>;
  /** Rules of one side only. Null: the sides differ in more than rules. */
  readonly #differing: ReadonlySet<CompiledRule> | null;
  readonly #byRules = new Map<string, { change: Change; ports: PortRange[] }[]>();
  readonly #byShape = new Map<string, { changes: Change[]; labels: Labels }>();
  readonly #changes = new Map<string, Change>();
  readonly #sweeps = new Map<string, AddressSweep>();
  readonly #verdicts = new Verdicts();

  constructor(sides: Both, contents: Contents, budget: Budget) {
    this.#sides = sides;
    this.#contents = contents;
    this.#budget = budget;
    this.#rules = { old: rulesOf(sides.old), new: rulesOf(sides.new) };
    budget.spend((this.#rules.old.length + this.#rules.new.length) / PER_UNIT.rules);
    const equal = contents.settings(sides.old) === contents.settings(sides.new);
    this.#differing = equal ? this.#oneSided() : null;
  }

  /** Rules that one of both sides lacks in the same list. */
  #oneSided(): Set<CompiledRule> {
    const lists = (side: Side) => (side === null ? [] : [side.deny, side.ownDeny, side.allow]);
    const [before, after] = [lists(this.#sides.old), lists(this.#sides.new)];
    const number = (rule: CompiledRule) => this.#contents.rule(rule);
    const missing = (rules: readonly CompiledRule[], others: readonly CompiledRule[] = []) => {
      const known = new Set(others.map(number));
      return rules.filter((rule) => !known.has(number(rule)));
    };
    return new Set([
      ...before.flatMap((rules, i) => missing(rules, after[i])),
      ...after.flatMap((rules, i) => missing(rules, before[i])),
    ]);
  }

  run(): Reach {
    const sets = new Set(
      [...this.#rules.old, ...this.#rules.new]
        .flatMap(({ hosts, except }) => [hosts, except])
        .filter((set) => set !== null)
        .flatMap((set) => [set, ...set.shared]),
    );
    const patterns = new Set<string>();
    for (const set of sets) for (const pattern of set.patterns()) patterns.add(pattern);
    this.#budget.spend(patterns.size / PER_UNIT.patterns);
    const classes = classesOf(patterns);
    const rows = new Map<string, ReachRow>();
    const numbers = new Map<Change, number>();
    const numberOf = (change: Change) => {
      const key = numbers.get(change) ?? numbers.size;
      numbers.set(change, key);
      return key;
    };
    const add = (host: string, ip: boolean, put: (row: ReachRow) => void) => {
      for (const { change, ports } of this.#compareHost(host, ip)) {
        const key = `${numberOf(change)} ${ports.join()}`;
        const row = rows.get(key) ?? { change, ports, names: [], literals: false };
        rows.set(key, row);
        put(row);
      }
    };
    for (const one of classes) add(one.host, false, (row) => row.names.push(one));
    add("192.0.2.1", true, (row) => {
      row.literals = true;
    });
    // Each row is compared with all classes later.
    this.#budget.spend((rows.size * classes.length) / PER_UNIT.lookups);
    return { classes, rows: [...rows.values()] };
  }

  /** Whether the decisions of both sides about a name can differ. */
  #mayDiffer(target: Target, name: HostName): boolean {
    if (this.#differing === null) return true;
    for (const rule of this.#differing) if (hostFits(rule, target, name)) return true;
    return false;
  }

  #compareHost(host: string, ip: boolean): { change: Change; ports: PortRange[] }[] {
    const any: Target = { host, ip, port: 1 };
    const name = new HostName(host);
    this.#budget.spend((this.#differing?.size ?? 0) / PER_UNIT.lookups);
    if (!this.#mayDiffer(any, name)) return [];
    this.#budget.spend(unitsFor(this.#rules.old.length + this.#rules.new.length));
    const fitting = (side: keyof Both) =>
      this.#rules[side].flatMap((rule, i) => (hostFits(rule, any, name) ? [i] : []));
    const [old, now] = [fitting("old"), fitting("new")];
    const key = `${ip} ${old.join()} ${now.join()}`;
    const found = this.#byRules.get(key) ?? this.#comparePorts(host, ip, old, now);
    this.#byRules.set(key, found);
    return found;
  }

  #comparePorts(host: string, ip: boolean, old: number[], now: number[]): { change: Change; ports: PortRange[] }[] {
    const rules = [...old.map((i) => this.#rules.old[i]!), ...now.map((i) => this.#rules.new[i]!)];
    const found = new Map<Change, PortRange[]>();
    for (const range of portsOf(rules)) {
      this.#budget.spend(unitsFor(rules.length));
      const target: Target = { host, ip, port: range[0] };
      for (const change of this.#compareAddresses(target, old, now)) {
        found.set(change, [...(found.get(change) ?? []), range]);
      }
    }
    return [...found].map(([change, ports]) => ({ change, ports: joinPorts(ports) }));
  }

  #compareAddresses(target: Target, old: number[], now: number[]): Change[] {
    const fitting = (side: keyof Both, indexes: number[]) =>
      indexes.filter((i) => portFits(this.#rules[side][i]!, target.port));
    const [before, after] = [fitting("old", old), fitting("new", now)];
    const rules = [...before.map((i) => this.#rules.old[i]!), ...after.map((i) => this.#rules.new[i]!)];
    if (this.#differing !== null && !rules.some((rule) => this.#differing!.has(rule))) return [];
    const labels = { old: this.#labels("old", before), new: this.#labels("new", after) };
    const { old: one, new: other } = this.#sides;
    const key = [
      target.ip,
      ...[this.#shapes("old", before), stageOf(one, target, labels.old)],
      ...[this.#shapes("new", after), stageOf(other, target, labels.new)],
    ].join("|");
    const known = this.#byShape.get(key);
    if (known !== undefined) return known.changes.map((change) => this.#unique(relabel(change, known.labels, labels)));
    const [was, is] = [judgeOf(one, target, this.#verdicts), judgeOf(other, target, this.#verdicts)];
    const changes = this.#sweepFor(rules)
      .run(was, is, unitsFor(rules.length))
      .map((change) => this.#unique(change));
    this.#byShape.set(key, { changes, labels });
    return changes;
  }

  #labels(side: keyof Both, indexes: readonly number[]): string[] {
    return indexes.map((i) => this.#rules[side][i]!.label);
  }

  /** All of some rules that decides about addresses, once their hosts and ports fit. */
  #shapes(side: keyof Both, indexes: readonly number[]): string {
    const set = this.#sides[side];
    const [deny, ownDeny] = set === null ? [0, 0] : [set.deny.length, set.deny.length + set.ownDeny.length];
    const shapes = indexes.map((i) => {
      const rule = this.#rules[side][i]!;
      const list = i < deny ? "deny" : i < ownDeny ? "own" : rule === set!.fallback ? "default" : "allow";
      return `${list} ${rule.hosts !== null} ${this.#contents.cidrs(rule.cidrs)} ${rule.opens}`;
    });
    return shapes.join();
  }

  /** Equal changes are one object. */
  #unique(change: Change): Change {
    const text = JSON.stringify([this.#contents.place(change), change.old, change.new]);
    const found = this.#changes.get(text) ?? change;
    this.#changes.set(text, found);
    return found;
  }

  /** The sweep for the `cidrs` of these rules and for the options. */
  #sweepFor(rules: readonly CompiledRule[]): AddressSweep {
    const unique = new Map<number, CidrSet>();
    for (const { cidrs } of rules) if (cidrs !== null) unique.set(this.#contents.cidrs(cidrs), cidrs);
    const key = [...unique.keys()].sort((a, b) => a - b).join();
    const known = this.#sweeps.get(key);
    if (known !== undefined) return known;
    const sides = [this.#sides.old, this.#sides.new].filter((side) => side !== null);
    const cidrs = [...unique.values()];
    const opening = sides.map(({ allowCIDRs }) => allowCIDRs);
    const others = sides.flatMap(({ denyCIDRs, blocked, own, statics }) => [denyCIDRs, blocked, own, statics]);
    const made = new AddressSweep([...cidrs, ...opening, ...others], [...cidrs, ...opening], this.#budget);
    if (this.#sweeps.size >= MAX_SWEEPS) this.#sweeps.clear();
    this.#sweeps.set(key, made);
    return made;
  }
}

/**
 * The targets and addresses that become reachable or unreachable for a client with these two sets. Asks the engine for each
 * class of names, interval of ports, and cell of addresses that no rule cuts. @throws TooComplexError
 */
export function compareReach(sides: Both, contents: Contents, budget: Budget): Reach {
  return new Comparison(sides, contents, budget).run();
}
