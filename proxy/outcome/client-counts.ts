import type { PolicySet } from "../policy/engine.ts";
import type { AccessRecord } from "./access-record.ts";

/** Counts of the finished tunnels and requests of one entry, and of their bytes. */
interface ClientCount {
  allow: number;
  deny: number;
  up: number;
  down: number;
}

/** Counts by entry of the policy in force. No request can add a name. */
export class ClientCounts {
  #counts: ReadonlyMap<string, ClientCount> = new Map();

  /** Counts from now on the entries of this policy. Counts of former entries continue if it has them, otherwise they are dropped. */
  use({ views }: PolicySet): void {
    const former = this.#counts;
    const countOf = (name: string): ClientCount => former.get(name) ?? { allow: 0, deny: 0, up: 0, down: 0 };
    this.#counts = new Map(Array.from(views?.keys() ?? [], (name) => [name, countOf(name)]));
  }

  /** Counts one record. */
  count({ entry, verdict, bytesUp, bytesDown }: AccessRecord): void {
    const count = entry === undefined ? undefined : this.#counts.get(entry);
    if (count === undefined) return;
    count[verdict]++;
    count.up += bytesUp;
    count.down += bytesDown;
  }

  /** Entries with their counts, sorted by name as in the policy. */
  [Symbol.iterator](): Iterator<[name: string, ClientCount]> {
    return this.#counts[Symbol.iterator]();
  }
}
