import { type HostPattern, parseHostPattern } from "./host.ts";

/** A list of an acl.yaml, sorted by the kind of its entries. */
export interface Entries {
  hosts: string[];
  addresses: string[];
}

/** Limit of the warnings about overlaps in one file. A wide allow entry overlaps with thousands of denied names. */
const MAX_OVERLAPS = 10_000;
/** Limit of the services that a warning names. */
const MAX_SERVICES_SHOWN = 3;

/** Names of services, shortened. */
function servicesShown(names: readonly string[]): string {
  const more = names.length - MAX_SERVICES_SHOWN;
  return more <= 0 ? names.join(", ") : `${names.slice(0, MAX_SERVICES_SHOWN).join(", ")} and ${more} more`;
}

/** Warnings about an acl.yaml, each text once, with the services that it is about. */
export class Lint {
  /** Empty: the warning is about the whole file. */
  readonly #services = new Map<string, Set<string>>();

  add(text: string, services: readonly string[] = []): void {
    this.#services.set(text, new Set([...(this.#services.get(text) ?? []), ...services]));
  }

  /** `services`: how many the file has. A warning that is not about all of them names its services. */
  lines(services: number): string[] {
    return [...this.#services].map(([text, names]) =>
      names.size === 0 || names.size === services ? text : `${servicesShown([...names])}: ${text}`,
    );
  }
}

/**
 * Entries by the names or addresses that they match: each comparison takes one lookup per label, also in a list of many
 * thousands.
 */
type Index = ReadonlyMap<string, string>;

function patternOf(text: string): HostPattern {
  const pattern = parseHostPattern(text);
  return "error" in pattern ? { kind: "exact", name: text } : pattern; // An address matches only itself.
}

const keyOf = (pattern: HostPattern): string => `${pattern.kind} ${pattern.name}`;

function indexOf(entries: Entries): Index {
  return new Map([...entries.hosts, ...entries.addresses].map((text) => [keyOf(patternOf(text)), text]));
}

/** The domains that a name is in, the closest first. */
function parentsOf(name: string): string[] {
  return [...name.matchAll(/\./g)].map(({ index }) => name.slice(index + 1));
}

/** The entry that matches everything that `text` matches. */
function covering(index: Index, text: string): string | undefined {
  const pattern = patternOf(text);
  const same = index.get(keyOf(pattern));
  if (same !== undefined) return same;
  for (const name of parentsOf(pattern.name)) {
    const wider = index.get(keyOf({ kind: "suffix", name }));
    if (wider !== undefined) return wider;
  }
  return undefined;
}

/** Finds entries that allow lists share with one deny list, which is indexed once for all of them. */
export class Overlaps {
  readonly #denied: Index;
  readonly #entries: readonly [key: string, text: string][];
  /** Positions in the deny list of the names below each domain; null: not needed yet. */
  #below: Map<string, number[]> | null = null;
  #found = 0;

  constructor(deny: Entries) {
    this.#denied = indexOf(deny);
    this.#entries = [...this.#denied];
  }

  /** Whether the limit of warnings was reached, so that there may be more. */
  get cut(): boolean {
    return this.#found >= MAX_OVERLAPS;
  }

  #warning(text: string): string {
    this.#found++;
    return text;
  }

  /** Entries of an allow list that the deny list covers. */
  *denied(entries: Entries, otherwise: string): Iterable<string> {
    if (this.#entries.length === 0) return;
    for (const text of indexOf(entries).values()) {
      if (this.cut) return;
      const deny = covering(this.#denied, text);
      if (deny !== undefined) yield this.#warning(`${text} is allowed and denied (${deny}): deny wins${otherwise}`);
    }
  }

  #indexBelow(): Map<string, number[]> {
    if (this.#below !== null) return this.#below;
    this.#below = new Map();
    for (const [i, [, text]] of this.#entries.entries()) {
      for (const name of parentsOf(patternOf(text).name)) {
        const list = this.#below.get(name);
        if (list === undefined) this.#below.set(name, [i]);
        else list.push(i);
      }
    }
    return this.#below;
  }

  /** Entries of the deny list that a wider entry of the allow list covers. */
  *allowed(entries: Entries): Iterable<string> {
    if (this.#entries.length === 0 || this.cut) return;
    const allowed = indexOf(entries);
    const positions = new Set<number>();
    for (const text of allowed.values()) {
      for (const i of this.#indexBelow().get(patternOf(text).name) ?? []) positions.add(i);
    }
    for (const i of [...positions].sort((a, b) => a - b)) {
      if (this.cut) return;
      const [key, text] = this.#entries[i]!;
      const allow = allowed.has(key) ? undefined : covering(allowed, text);
      if (allow === undefined) continue;
      yield this.#warning(`${text} is denied, and allowed by ${allow}: deny wins here, allow won in Smokescreen`);
    }
  }
}
