import type { ProxyRecord } from "../harness/proxy.ts";
import type { Expected } from "./wire.ts";
import { DIALLED } from "./world.ts";

/** Addresses that one access record may list. */
const MAX_RECORD_ADDRESSES = 64;
/** The memory limit of the chart's proxy container. */
export const MAX_RSS_MIB = 512;
/** Violations of one category whose details are kept. */
const KEPT_DETAILS = 10;

/** Violations of invariants: a count and the first details per category. */
export class Violations {
  readonly #byCategory = new Map<string, { count: number; details: string[]; kinds: Map<string, number> }>();

  /** `kinds`: the kinds of the connection, if it is known. */
  add(category: string, detail: string, kinds: readonly string[] = []): void {
    let entry = this.#byCategory.get(category);
    if (entry === undefined) {
      entry = { count: 0, details: [], kinds: new Map() };
      this.#byCategory.set(category, entry);
    }
    entry.count++;
    if (entry.details.length < KEPT_DETAILS) entry.details.push(detail);
    for (const kind of kinds) entry.kinds.set(kind, (entry.kinds.get(kind) ?? 0) + 1);
  }

  get count(): number {
    return [...this.#byCategory.values()].reduce((sum, { count }) => sum + count, 0);
  }

  /** Lines of a report: each category with the kinds that its connections had most often. */
  lines(): string[] {
    return [...this.#byCategory].flatMap(([category, { count, details, kinds }]) => {
      const common = [...kinds].sort(([, a], [, b]) => b - a).slice(0, 6);
      const shown = common.length > 0 ? ` (${common.map(([kind, times]) => `${kind} ${times}`).join(", ")})` : "";
      return [`${category}: ${count}${shown}`, ...details.map((detail) => `  ${detail}`)];
    });
  }
}

interface Account {
  min: number;
  max: number;
  unnamed: number;
  found: number;
  numbers: number[];
}

/**
 * Compares access records with the requests that clients sent, by the address and port of the client connection. Ports are
 * reused: connections with the same address and port share an account.
 */
export class Ledger {
  readonly #accounts = new Map<string, Account>();
  /** Records without a client address: the connection was reset before the proxy accepted it. */
  anonymous = 0;
  #settled = 0;
  records = 0;
  requests = 0;

  #account(source: string): Account {
    let account = this.#accounts.get(source);
    if (account === undefined) {
      account = { min: 0, max: 0, unnamed: 0, found: 0, numbers: [] };
      this.#accounts.set(source, account);
    }
    return account;
  }

  expect(source: string, number: number, { min, max, unnamed }: Expected): void {
    const account = this.#account(source);
    account.unnamed += unnamed;
    account.min += min;
    account.max += max;
    account.numbers.push(number);
    this.requests += min + unnamed;
  }

  found(source: string): void {
    this.records++;
    if (/^127\./.test(source)) this.#account(source).found++;
    else this.anonymous++;
  }

  /** Records that are required and were not found yet. */
  get missing(): number {
    let missing = 0;
    for (const { min, found } of this.#accounts.values()) missing += Math.max(0, min - found);
    return missing;
  }

  /** Closes all accounts when the proxy is at rest. Calls `report` for each that has too few or too many records. */
  settle(report: (category: string, source: string, numbers: readonly number[], what: string) => void): void {
    let room = 0;
    let unnamed = 0;
    for (const [source, { min, max, unnamed: more, found, numbers }] of this.#accounts) {
      unnamed += Math.max(0, Math.min(more, min + more - found));
      room += Math.max(0, max - found);
      if (found < min) report("missing records", source, numbers, `${found} instead of ${min}`);
      if (found > max) report("surplus records", source, numbers, `${found} instead of ${max} at most`);
    }
    const nameless = this.anonymous - this.#settled;
    this.#settled = this.anonymous;
    if (nameless > room) report("surplus records", "unknown", [], `${nameless - room} belong to no request`);
    // A proxy may also close such connections when it accepts them. It then writes no such record at all.
    if (nameless > 0 && nameless < unnamed) {
      report("missing records", "unknown", [], `${nameless} instead of ${unnamed} of connections reset before accept`);
    }
    this.#accounts.clear();
  }
}

/** The fault of one access record; null if there is none. */
export function faultOfRecord(record: ProxyRecord): string | null {
  const { address, addresses } = record as { address?: string; addresses?: string[] };
  if (address !== undefined && !DIALLED.test(address)) return `${record.target} was dialled at ${address}`;
  if (addresses !== undefined && addresses.length > MAX_RECORD_ADDRESSES) {
    return `the record of ${record.target} lists ${addresses.length} addresses`;
  }
  return null;
}

/** Lines of the proxy's log that no client, receiver or DNS server may cause. */
export function faultsOfLog(stderr: string): string[] {
  return stderr.split("\n").filter((line) => {
    if (line === "") return false;
    try {
      const { level } = JSON.parse(line) as { level: string };
      return level === "error" || level === "fatal";
    } catch {
      // A stack trace, or a message of Node itself.
      return true;
    }
  });
}
