/** Characters of a host name. A letter is first, since the last label of a name must not be a number. */
const LETTERS = "abcdefghijklmnopqrstuvwxyz_0123456789";
const MAX_NAME = 253;
const MAX_LABEL = 63;

/** Names that every rule of a set of patterns treats alike. */
export interface NameClass {
  /** The most specific pattern that covers them: a name, `*.name`, or `*`. */
  pattern: string;
  /** One of these names. */
  host: string;
  /** The class of the next wider pattern; null for `*`. */
  parent: NameClass | null;
}

/** The label number `i` of all labels, the shortest first. */
function label(i: number): string {
  let text = "";
  for (let n = i + 1; n > 0; n = Math.floor((n - 1) / LETTERS.length)) text = LETTERS[(n - 1) % LETTERS.length] + text;
  return text;
}

/** A name below `parent` that is no pattern itself; null: every name that is short enough is one. */
function nameBelow(parent: string, names: ReadonlySet<string>): string | null {
  const room = Math.min(MAX_LABEL, parent === "" ? MAX_NAME : MAX_NAME - parent.length - 1);
  for (let i = 0; ; i++) {
    const first = label(i);
    if (first.length > room) return null;
    // A name without a parent must not be a number.
    if (parent === "" && !/^[a-z]/.test(first)) continue;
    const name = parent === "" ? first : `${first}.${parent}`;
    if (!names.has(name)) return name;
  }
}

/** The nearest class of a wildcard that covers a name: not that of `*.name` itself. */
function classAbove(name: string, wildcards: ReadonlyMap<string, NameClass>, any: NameClass): NameClass {
  for (let dot = name.indexOf("."); dot !== -1; dot = name.indexOf(".", dot + 1)) {
    const found = wildcards.get(name.slice(dot + 1));
    if (found !== undefined) return found;
  }
  return any;
}

/**
 * All host names as classes: one for each pattern, with the names that no more specific pattern covers, and one for all other
 * names. The first is `*`; a class comes after its parent. Linear in the labels of the patterns.
 */
export function classesOf(patterns: Iterable<string>): NameClass[] {
  const exact = new Set<string>();
  const suffixes = new Set<string>();
  for (const pattern of patterns) {
    if (pattern.startsWith("*.")) suffixes.add(pattern.slice(2));
    else if (pattern !== "*") exact.add(pattern);
  }
  const any: NameClass = { pattern: "*", host: nameBelow("", exact)!, parent: null };
  const classes = [any];
  const wildcards = new Map<string, NameClass>();
  const shortFirst = [...suffixes].sort((a, b) => a.length - b.length || (a < b ? -1 : 1));
  for (const name of shortFirst) {
    const host = nameBelow(name, exact);
    if (host === null) continue;
    const found = { pattern: `*.${name}`, host, parent: classAbove(name, wildcards, any) };
    wildcards.set(name, found);
    classes.push(found);
  }
  for (const name of [...exact].sort()) {
    classes.push({ pattern: name, host: name, parent: classAbove(name, wildcards, any) });
  }
  return classes;
}

/** Names as patterns. The most specific one of both lists decides: a name in `except` is not meant. */
export interface Names {
  hosts: string[];
  except: string[];
}

/** The names of some of the classes. */
export function namesOf(chosen: ReadonlySet<NameClass>, all: readonly NameClass[]): Names {
  const names: Names = { hosts: [], except: [] };
  for (const one of all) {
    const inside = one.parent !== null && chosen.has(one.parent);
    if (chosen.has(one) === inside) continue;
    (inside ? names.except : names.hosts).push(one.pattern);
  }
  return names;
}
