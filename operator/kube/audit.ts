import { type KubeObject, keyOf } from "./resource.ts";

/** What is compared: a store of any kind of object. */
interface Held {
  get(key: string): KubeObject | undefined;
  list(): KubeObject[];
}

/**
 * Compares a store with a list that was taken while its watch went on. The comparison waits until the watch has told
 * everything up to the list's moment: from then on a difference is a change that the watch left out.
 */
export class Audit {
  /** Keys whose deletion was told since the list was asked for. */
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

  /** How many objects differ, for a watch that has told everything up to `version`; undefined: too early to say. */
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

/** Resource versions of one resource are decimal numbers that grow (KEP-5504). */
export function compareVersions(a: string, b: string): number {
  if (a.length !== b.length) return a.length - b.length;
  return a < b ? -1 : a > b ? 1 : 0;
}
