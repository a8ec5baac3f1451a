import { isIP } from "node:net";
import { domainToASCII } from "node:url";

/** A parsed host pattern (Network Policy API semantics): `suffix` is `*.name`, one or more labels in front of it. */
export type HostPattern = { kind: "exact" | "suffix"; name: string } | { kind: "any"; name: "*" };

const MAX_NAME = 253;
const LABELS = /^[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)*$/;
/** A last label that `getaddrinfo` and browsers read as (part of) an IPv4 address: `127.1`, `0x7f.1`, `2130706433`. */
const NUMERIC_LAST_LABEL = /(?:^|\.)(?:[0-9]+|0x[0-9a-f]*)$/;

/**
 * The only value by which a name is matched, resolved and logged: lower case, without one trailing dot. Null for text
 * that is not an ASCII host name (RFC 1123, underscores allowed): IP literals in any spelling, empty or overlong
 * labels, percent-escapes, non-ASCII. Wire names are never mapped through IDNA, which would be a guess.
 */
export function canonicalHost(text: string): string | null {
  // Checked before lower-casing, which turns some non-ASCII letters into ASCII ones (U+212A into k).
  if (/[^\x21-\x7e]/.test(text)) return null;
  let name = text.toLowerCase();
  if (name.endsWith(".")) name = name.slice(0, -1);
  if (name.length === 0 || name.length > MAX_NAME) return null;
  if (!LABELS.test(name) || NUMERIC_LAST_LABEL.test(name)) return null;
  return name;
}

/** Whether a name has the loopback addresses of each machine that resolves it, without DNS (RFC 6761 §6.3). */
export const isLocalhost = (host: string): boolean => host === "localhost" || host.endsWith(".localhost");

/** Why {@link canonicalHost} rejects a text, as a sentence without its subject; null: it does not. */
export function hostProblem(text: string): string | null {
  const bad = /[^a-z0-9_.-]/i.exec(text)?.[0];
  if (bad !== undefined) return `has the character ${bad}, which no host name has`;
  const name = text.toLowerCase().replace(/\.$/, "");
  if (NUMERIC_LAST_LABEL.test(name)) {
    return "ends in a number; an IPv4 address is a.b.c.d, in decimal, without leading zeros";
  }
  const labels = name.split(".");
  if (labels.includes("")) return "has an empty label (two dots, or a dot at the start)";
  if (labels.some((label) => label.length > 63)) return "has a label of more than 63 characters";
  if (name.length > MAX_NAME) return `is longer than ${MAX_NAME} characters`;
  if (labels.some((label) => /^-|-$/.test(label))) return "has a label that begins or ends with a hyphen";
  return null;
}

/** Parts of errors: the forms that a list of patterns accepts besides names and `*.name`. */
const FORMS = {
  rule: {
    wildcard: ', or "*" alone',
    forms: "a name, *.name or *",
    address: "use cidrs",
    cidr: "use cidrs",
    port: "use ports",
  },
  acl: {
    wildcard: "",
    forms: "a name, *.name or an IP address",
    address: "write it without brackets and zone",
    cidr: "write single addresses here, and ranges with --allow-cidr or --deny-cidr",
    port: "write the name alone, and ports with --ports",
  },
};

/**
 * Reads a pattern: exact name, `*.name`, or `*`. Unicode names become punycode (UTS 46). `list`: which forms the error of
 * a wrong pattern offers, those of a rule or those of an acl.yaml.
 */
export function parseHostPattern(text: string, list: keyof typeof FORMS = "rule"): HostPattern | { error: string } {
  if (text === "*") return { kind: "any", name: "*" };
  const wildcard = text.startsWith("*.");
  const body = wildcard ? text.slice(2) : text;
  // Nearly every name of a long list is already canonical.
  if (body.length <= MAX_NAME && LABELS.test(body) && !NUMERIC_LAST_LABEL.test(body)) {
    return { kind: wildcard ? "suffix" : "exact", name: body };
  }
  const { wildcard: alone, forms, address, cidr, port } = FORMS[list];
  if (body === "") return { error: `is empty; write ${forms}` };
  if (body.includes("*")) return { error: `"${text}": a wildcard is only "*." in front of a name${alone}` };
  if (isIP(text) !== 0 || /^\[.*\]$/.test(text)) return { error: `"${text}" is an IP address; ${address}` };
  if (/^[0-9a-f.:]+\/[0-9]+$/i.test(text)) return { error: `"${text}" is a CIDR; ${cidr}` };
  if (/^[^/:]+:[0-9]*$/.test(text)) return { error: `"${text}" has a port; ${port}` };
  if (/[/:@?#%\s]/.test(text))
    return { error: `"${text}" is not a host name; write the name alone, without URL parts` };
  const ascii = /^[\x20-\x7e]*$/.test(body) ? body : domainToASCII(body);
  const name = canonicalHost(ascii);
  if (name === null) return { error: `"${text}" is not a valid host name` };
  return { kind: wildcard ? "suffix" : "exact", name };
}

/** A host name of a decision. Its parents are computed once, for all sets that look them up. */
export class HostName {
  readonly text: string;
  /** Undefined: not computed yet. */
  #parent: HostName | null | undefined = undefined;

  constructor(text: string) {
    this.text = text;
  }

  /** The name behind the first dot; null: the name is one label. */
  get parent(): HostName | null {
    if (this.#parent !== undefined) return this.#parent;
    const dot = this.text.indexOf(".");
    this.#parent = dot === -1 ? null : new HostName(this.text.slice(dot + 1));
    return this.#parent;
  }
}

/** Up to so many suffixes are compared one by one: a name may have more parents, and each needs a lookup. */
const FEW_SUFFIXES = 4;

/** Many patterns compiled for matching with one lookup per label: 1 µs at 100,000 names. */
export class HostSet {
  readonly #exact = new Set<string>();
  readonly #suffix = new Set<string>();
  /** The suffixes with a dot in front, while they are few. */
  readonly #dotted: string[] = [];
  readonly #shared: HostSet[] = [];
  #any = false;
  /** Length of the longest suffix: longer parents of a name need no lookup. */
  #longest = 0;

  /** Adds all names of another set, which several sets share. */
  addSet(shared: HostSet): void {
    this.#shared.push(shared);
  }

  add(pattern: HostPattern): void {
    if (pattern.kind === "any") this.#any = true;
    else if (pattern.kind === "exact") this.#exact.add(pattern.name);
    else {
      this.#suffix.add(pattern.name);
      if (this.#suffix.size <= FEW_SUFFIXES) this.#dotted.push(`.${pattern.name}`);
      this.#longest = Math.max(this.#longest, pattern.name.length);
    }
  }

  /** The sets that this set shares with others. */
  get shared(): readonly HostSet[] {
    return this.#shared;
  }

  /** The patterns of the set as texts, without those of the shared sets. */
  *patterns(): Iterable<string> {
    if (this.#any) yield "*";
    yield* this.#exact;
    for (const name of this.#suffix) yield `*.${name}`;
  }

  has(name: HostName): boolean {
    if (this.#any || this.#exact.has(name.text) || this.#hasParent(name)) return true;
    for (const shared of this.#shared) if (shared.has(name)) return true;
    return false;
  }

  #hasParent(name: HostName): boolean {
    if (this.#suffix.size <= FEW_SUFFIXES) {
      for (const dotted of this.#dotted) if (name.text.endsWith(dotted)) return true;
      return false;
    }
    for (let { parent } = name; parent !== null; { parent } = parent) {
      if (parent.text.length <= this.#longest && this.#suffix.has(parent.text)) return true;
    }
    return false;
  }
}
