import { type Cidr, parseCidr } from "./cidr.ts";
import { parseHostPattern } from "./host.ts";

/** A port, or an inclusive range such as `"1024-65535"`. */
export type PortSpec = number | string;

/** One allow or deny entry. Fields are ANDed, list items ORed; an absent field does not restrict. */
export interface Rule {
  name?: string;
  /** Host patterns, and `set:NAME` for a list of the policy's `hostSets`. */
  hosts?: string[];
  except?: string[];
  cidrs?: string[];
  ports?: PortSpec[];
  /**
   * False for the IP addresses of an acl.yaml allow list: `cidrs` admit these literals, but no name, and open no range.
   */
  opens?: boolean;
}

/** One problem of an input. `path` is the field, such as `allow[3].hosts[0]`. */
interface Problem {
  path: string;
  message: string;
}

/** Limit of the problems in the message of a {@link PolicyError}: users fix these first, and `/status` stays small. */
export const MAX_PROBLEMS_SHOWN = 10;
/** Limit in characters of one problem in that message. A key or a value of the file may be megabytes long. */
const MAX_PROBLEM_LENGTH = 300;
/** Limit in characters of a value that a message quotes. */
const MAX_SHOWN_LENGTH = 100;

/** Control characters, and marks that change the order of text on a screen. */
export const UNSAFE = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/gu;

/**
 * Text of a file on one line with a length limit, without characters that act on a terminal or forge lines of a log.
 */
export function plainLine(text: string, max: number): string {
  const cut = text.length > max ? `${text.slice(0, max)}...` : text;
  return cut.replace(UNSAFE, (c) => `\\u${c.codePointAt(0)!.toString(16).padStart(4, "0")}`);
}

/** A value as a message quotes it: short, even if the file has a long one. */
export function shown(value: unknown): string {
  if (Array.isArray(value)) return "a list";
  if (typeof value === "object" && value !== null) return "a mapping";
  if (typeof value !== "string") return String(value);
  return JSON.stringify(value.length > MAX_SHOWN_LENGTH ? `${value.slice(0, MAX_SHOWN_LENGTH)}...` : value);
}

/** The first texts, each with a length limit, and the number of the others. */
export function boundedTexts(texts: readonly string[], max: number): string[] {
  const first = texts.slice(0, max).map((text) => plainLine(text, MAX_PROBLEM_LENGTH));
  return texts.length > max ? [...first, `and ${texts.length - max} more`] : first;
}

/**
 * An invalid policy, with every wrong field. The message is one line and shows the first {@link MAX_PROBLEMS_SHOWN}
 * problems.
 */
export class PolicyError extends Error {
  readonly code = "INVALID_POLICY";
  readonly problems: readonly Problem[];

  constructor(problems: readonly Problem[]) {
    const texts = problems.map((p) => (p.path === "" ? p.message : `${p.path}: ${p.message}`));
    super(boundedTexts(texts, MAX_PROBLEMS_SHOWN).join("; "));
    this.problems = problems;
  }

  /** The message with a number before each of several problems, since a problem may contain semicolons. */
  get numbered(): string {
    if (this.problems.length === 1) return this.message;
    const texts = this.problems.map(({ path, message }, i) => `(${i + 1}) ${path === "" ? "" : `${path}: `}${message}`);
    return boundedTexts(texts, MAX_PROBLEMS_SHOWN).join("; ");
  }
}

/**
 * Limit of the rules of a list. Limits of the CRD are lower, never higher: 256 rules per list, 20,000 hosts and 500 CIDRs per rule,
 * which is what the API server's limits on the cost of CEL allow. A converted acl.yaml may have more.
 */
export const MAX_RULES = 1024;
/** Limit of the hosts, or of the CIDRs, of a rule. */
export const MAX_ENTRIES = 100_000;
/** Limit of the references to host sets of a rule. */
const MAX_SET_REFS = 8;
/** Limit of the names that an error lists. */
export const MAX_NAMES_SHOWN = 20;
/** Limit of the ports of a rule. */
export const MAX_PORTS = 64;
const RULE_KEYS = ["name", "hosts", "except", "cidrs", "ports"] as const;
/** Longer words are not typing errors of a known one, and comparing them takes long. */
const MAX_WORD = 64;
const RULE_NAME = /^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$/;

function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next.push(Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)));
    }
    row = next;
  }
  return row[b.length]!;
}

/** The known word that the user probably meant: at most a third of its letters differ, ignoring case and dashes. */
export function nearest(word: string, known: readonly string[]): string | undefined {
  if (word.length > MAX_WORD) return undefined;
  const plain = (s: string) => s.toLowerCase().replace(/[-_]/g, "");
  let best: string | undefined;
  let least = Number.POSITIVE_INFINITY;
  for (const candidate of known) {
    const d = distance(plain(word), plain(candidate));
    if (d < least && d <= Math.max(1, Math.floor(candidate.length / 3))) {
      best = candidate;
      least = d;
    }
  }
  return best;
}

/** Collects the problems of an input, so that a user can fix all of them at once. */
export class Reader {
  readonly problems: Problem[] = [];

  problem(path: string, message: string): void {
    this.problems.push({ path, message });
  }

  /** The value as a mapping whose keys are all known; undefined (and a problem) otherwise. */
  mapping(value: unknown, path: string, known: readonly string[]): Record<string, unknown> | undefined {
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      this.problem(path, "must be a mapping");
      return undefined;
    }
    for (const key of Object.keys(value)) {
      if (known.includes(key)) continue;
      // No hint when the message has no room for it: comparing words takes long.
      const meant = this.problems.length < MAX_PROBLEMS_SHOWN ? nearest(key, known) : undefined;
      const hint = meant === undefined ? `known keys: ${known.join(", ")}` : `did you mean ${meant}?`;
      this.problem(path === "" ? key : `${path}.${key}`, `unknown key; ${hint}`);
    }
    return value as Record<string, unknown>;
  }

  list(value: unknown, path: string, max: number): unknown[] {
    if (value === undefined) return [];
    if (!Array.isArray(value)) {
      this.problem(path, "must be a list");
      return [];
    }
    if (value.length <= max) return value;
    this.problem(path, `has ${value.length} entries; at most ${max} are allowed`);
    return value.slice(0, max);
  }

  oneOf<T extends string>(value: unknown, path: string, words: readonly T[], fallback: T): T {
    if (value === undefined) return fallback;
    const found = words.find((w) => w === value);
    if (found === undefined) this.problem(path, `must be one of ${words.join(", ")}, not ${shown(value)}`);
    return found ?? fallback;
  }

  integer(value: unknown, path: string, min: number, max: number, fallback: number): number {
    if (value === undefined) return fallback;
    if (typeof value === "number" && Number.isInteger(value) && value >= min && value <= max) return value;
    this.problem(path, `must be a whole number from ${min} to ${max}, not ${shown(value)}`);
    return fallback;
  }

  done(): void {
    if (this.problems.length > 0) throw new PolicyError(this.problems);
  }
}

/** An inclusive port range. */
export type PortRange = readonly [low: number, high: number];

/** Reads 443, "443" or "1024-65535"; null for anything else. */
export function parsePorts(value: unknown): PortRange | null {
  const match = /^([1-9]\d{0,4})(?:-([1-9]\d{0,4}))?$/.exec(String(value));
  if (match === null || (typeof value !== "number" && typeof value !== "string")) return null;
  const low = Number(match[1]);
  const high = match[2] === undefined ? low : Number(match[2]);
  return low <= high && high <= 65535 ? [low, high] : null;
}

/** Reads a `ports` list. */
export function readPorts(reader: Reader, value: unknown, path: string): PortSpec[] {
  const list = reader.list(value, path, MAX_PORTS);
  for (const [i, entry] of list.entries()) {
    if (parsePorts(entry) === null) {
      reader.problem(`${path}[${i}]`, `${shown(entry)} is not a port (1 to 65535) or a range such as "8000-8999"`);
    }
  }
  return list as PortSpec[];
}

/** Reads a list that is not empty, in which `check` accepts every text. */
export function strings(
  reader: Reader,
  value: unknown,
  path: string,
  check: (text: string) => string | undefined,
): string[] {
  const list = reader.list(value, path, MAX_ENTRIES);
  if (Array.isArray(value) && value.length === 0)
    reader.problem(path, "is empty; name at least one, or leave the field out");
  for (const [i, entry] of list.entries()) {
    const error = typeof entry === "string" ? check(entry) : "must be a string";
    if (error !== undefined) reader.problem(`${path}[${i}]`, error);
  }
  return list as string[];
}

/** The problem of a host pattern of a rule; undefined: none. */
export const hostError = (text: string): string | undefined => {
  const parsed = parseHostPattern(text);
  return "error" in parsed ? parsed.error : undefined;
};

/** No host pattern has a colon, so a reference is never a pattern, and a reader that does not know it rejects it. */
const SET_REF = /^set:([A-Za-z0-9](?:[-A-Za-z0-9]{0,61}[A-Za-z0-9])?)$/;

/** The name of the host set that an item of `hosts` or `except` refers to; null for a pattern. */
export function setName(text: string): string | null {
  return SET_REF.exec(text)?.[1] ?? null;
}

/** Names for a message: the first {@link MAX_NAMES_SHOWN}. */
export function namesShown(names: Iterable<string>): string {
  const all = [...names];
  if (all.length === 0) return "none";
  const more = all.length > MAX_NAMES_SHOWN ? ` and ${all.length - MAX_NAMES_SHOWN} more` : "";
  return `${all.slice(0, MAX_NAMES_SHOWN).join(", ")}${more}`;
}

/** Names that a rule may refer to or must not repeat. */
export interface RuleContext {
  /** Names of the rules that were read before, with their paths. */
  names: Map<string, string>;
  /** Rules of a document, which may have fields that no user writes. */
  internal: boolean;
  /** Names of the host sets. Null: this kind of file has no host sets, and `set:NAME` is a wrong pattern. */
  sets: ReadonlySet<string> | null;
}

function itemError(text: string, sets: RuleContext["sets"]): string | undefined {
  if (sets === null || !text.startsWith("set:")) return hostError(text);
  const name = setName(text);
  if (name !== null && sets.has(name)) return undefined;
  return `${shown(text)} refers to no host set; the policy has ${namesShown(sets)}`;
}

const cidrError = (text: string): string | undefined => {
  const parsed = parseCidr(text);
  return "error" in parsed ? parsed.error : undefined;
};

/** Reads a list of CIDRs in which every entry must be valid. */
export function readCidrs(reader: Reader, value: unknown, path: string): string[] {
  const list = reader.list(value, path, MAX_ENTRIES);
  for (const [i, entry] of list.entries()) {
    const error = typeof entry === "string" ? cidrError(entry) : "must be a string";
    if (error !== undefined) reader.problem(`${path}[${i}]`, error);
  }
  return list as string[];
}

/** Whether the rule has at most {@link MAX_SET_REFS} references. Items may be no strings yet. */
function refsFit({ hosts = [], except = [] }: Rule): boolean {
  const refs = [hosts, except].flatMap((list) => list.filter((item) => String(item).startsWith("set:")));
  return refs.length <= MAX_SET_REFS;
}

function readRule(reader: Reader, value: unknown, path: string, { internal, sets }: RuleContext): Rule {
  const fields = reader.mapping(value, path, internal ? [...RULE_KEYS, "opens"] : RULE_KEYS);
  if (fields === undefined) return {};
  const rule: Rule = {};
  if (fields.name !== undefined) {
    if (typeof fields.name !== "string" || !RULE_NAME.test(fields.name)) {
      reader.problem(`${path}.name`, "must be 1 to 63 letters, digits, '.', '_' or '-'");
    } else if (fields.name === "default") reader.problem(`${path}.name`, `"default" is the name of the default action`);
    else rule.name = fields.name;
  }
  if (fields.hosts !== undefined)
    rule.hosts = strings(reader, fields.hosts, `${path}.hosts`, (text) => itemError(text, sets));
  if (fields.except !== undefined)
    rule.except = strings(reader, fields.except, `${path}.except`, (text) => itemError(text, sets));
  if (fields.cidrs !== undefined) rule.cidrs = strings(reader, fields.cidrs, `${path}.cidrs`, cidrError);
  if (fields.ports !== undefined) rule.ports = readPorts(reader, fields.ports, `${path}.ports`);
  if (Array.isArray(fields.ports) && fields.ports.length === 0) {
    reader.problem(`${path}.ports`, "is empty; name at least one, or leave the field out");
  }
  if (fields.opens === false) rule.opens = false;
  else if (fields.opens !== undefined) reader.problem(`${path}.opens`, "must be false, or left out");
  if (!rule.hosts && !rule.cidrs && !rule.ports) reader.problem(path, "is empty; it needs hosts, cidrs or ports");
  if (sets !== null && !refsFit(rule)) reader.problem(path, `refers to more than ${MAX_SET_REFS} host sets`);
  if (rule.except && !rule.hosts) reader.problem(`${path}.except`, "needs hosts: it takes names out of them");
  return rule;
}

/** Reads `allow` or `deny`; rule names must be unique in `context.names`, which all lists of a policy share. */
export function readRules(reader: Reader, value: unknown, path: string, context: RuleContext): Rule[] {
  const { names } = context;
  return reader.list(value, path, MAX_RULES).map((entry, i) => {
    const here = `${path}[${i}]`;
    const rule = readRule(reader, entry, here, context);
    if (rule.name !== undefined) {
      const first = names.get(rule.name);
      if (first !== undefined) reader.problem(`${here}.name`, `"${rule.name}" is the name of ${first} already`);
      else names.set(rule.name, here);
    }
    return rule;
  });
}

/** The name of a rule in records, answers and explanations. `list`: the path of its list, such as `allow`. */
export function ruleLabel(rule: Rule, list: string, index: number): string {
  return rule.name ?? `${list}[${index}]`;
}

/** Parses validated CIDRs: throws on invalid text. */
export function parseCidrs(texts: readonly string[], path: string): Cidr[] {
  return texts.map((text, i) => {
    const parsed = parseCidr(text);
    if ("error" in parsed) throw new PolicyError([{ path: `${path}[${i}]`, message: parsed.error }]);
    return parsed;
  });
}
