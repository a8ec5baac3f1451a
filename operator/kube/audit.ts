import { type KubeObject, keyOf } from "./resource.ts";

/** Store that is compared. */
interface Held {
  get(key: string): KubeObject | undefined;
  list(): KubeObject[];
}

/**
 * Compares a store with a list that was read while the watch was running. The comparison waits until the watch has
 * delivered everything up to the version of the list. A difference after that is a change that the watch missed.
 */
export class Audit {
  /** Keys of objects that were deleted since the list was requested. */
  readonly #deleted = new Set<string>();
  #versions: Map<string, string> | undefined;
  #moment = "";

  deleted(key: string): void {
    this.#deleted.add(key);
  }

  listed(items: readonly KubeObject[], resourceVersion: string): void {
    this.#versions = new Map(items.map((item) => [keyOf(item), item.metadata.resourceVersion!]));
    this.#moment = resourceVersion;
  }

  /**
   * Number of objects that differ, for a watch that has delivered everything up to `version`; undefined if it is too
   * early.
   */
  differences(version: string, store: Held): number | undefined {
    if (this.#versions === undefined || compareVersions(version, this.#moment) < 0) return undefined;
    let differences = 0;
    for (const [key, listed] of this.#versions) {
      const held = store.get(key)?.metadata.resourceVersion;
      if (held === undefined ? !this.#deleted.has(key) : compareVersions(held, listed) < 0) differences++;
    }
    for (const object of store.list()) {
      const isOld = compareVersions(object.metadata.resourceVersion!, this.#moment) <= 0;
      if (isOld && !this.#versions.has(keyOf(object))) differences++;
    }
    return differences;
  }
}

/** Compares resource versions: within one resource they are increasing decimal numbers (KEP-5504). */
export function compareVersions(a: string, b: string): number {
  if (a.length !== b.length) return a.length - b.length;
  return a < b ? -1 : a > b ? 1 : 0;
}
