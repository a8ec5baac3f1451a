import { createHash } from "node:crypto";
import { isDeepStrictEqual } from "node:util";
import { RESOURCE } from "../../api/kinds.ts";
import { ANNOTATION } from "../../api/names.ts";
import { isMapping, type Mapping } from "../../kube/mapping.ts";
import type { KubeObject } from "../../kube/resource.ts";

/** Keys of list items, where the API server merges lists by item (`listType: map`). */
const ITEM_KEYS = ["name", "containerPort", "mountPath", "port", "uid", "topologyKey"] as const;

/** Fields whose values are quantities: the API server writes `1000m` as `1`. */
const QUANTITY_PARENTS = ["requests", "limits"];

const SUFFIXES: Readonly<Record<string, number>> = {
  n: 1e-9,
  u: 1e-6,
  m: 1e-3,
  k: 1e3,
  M: 1e6,
  G: 1e9,
  T: 1e12,
  P: 1e15,
  E: 1e18,
  Ki: 2 ** 10,
  Mi: 2 ** 20,
  Gi: 2 ** 30,
  Ti: 2 ** 40,
  Pi: 2 ** 50,
  Ei: 2 ** 60,
};

/** Number of a quantity (apimachinery's resource.Quantity); NaN if it is not one. */
function quantity(value: unknown): number {
  const match = /^([+-]?[\d.]+(?:[eE][+-]?\d+)?)([a-zA-Z]{0,2})$/.exec(String(value));
  return match === null ? Number.NaN : Number(match[1]) * (match[2] === "" ? 1 : (SUFFIXES[match[2]!] ?? Number.NaN));
}

function itemKey(item: unknown): (typeof ITEM_KEYS)[number] | undefined {
  return isMapping(item) ? ITEM_KEYS.find((key) => item[key] !== undefined) : undefined;
}

/**
 * Whether `actual` has every field of `desired` with its value. Additions are ignored: other fields, defaults, and
 * items of lists that the API server merges by key.
 */
export function covers(actual: unknown, desired: unknown, parent = ""): boolean {
  if (Array.isArray(desired)) {
    if (!Array.isArray(actual)) return desired.length === 0 && actual === undefined;
    const key = itemKey(desired[0]);
    if (key === undefined) {
      return actual.length === desired.length && desired.every((item, i) => covers(actual[i], item));
    }
    return desired.every((item) => {
      const same = actual.filter((other) => isMapping(other) && other[key] === (item as Mapping)[key]);
      return same.some((other) => covers(other, item));
    });
  }
  if (isMapping(desired)) {
    if (!isMapping(actual)) return actual === undefined && Object.keys(desired).length === 0;
    return Object.entries(desired).every(([key, value]) =>
      QUANTITY_PARENTS.includes(parent) ? quantity(actual[key]) === quantity(value) : covers(actual[key], value, key),
    );
  }
  return actual === desired;
}

/** Adds the hash of the object as an annotation. A changed hash shows that a field is no longer set. */
export function stamp<T extends KubeObject>(object: T): T {
  const hash = createHash("sha256").update(JSON.stringify(object)).digest("hex").slice(0, 16);
  const annotations = { ...object.metadata.annotations, [ANNOTATION.applied]: hash };
  return { ...object, metadata: { ...object.metadata, annotations } };
}

/** Kinds that are compared exactly: every addition (a peer, a port, even an empty selector) allows more. */
const EXACT_KINDS: readonly string[] = [RESOURCE.networkPolicy.kind];

/** Drops the values that the API server does not store: empty lists and empty label mappings. */
function withoutEmpty(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutEmpty);
  if (!isMapping(value)) return value;
  const empty = (key: string, one: unknown) =>
    one === undefined ||
    (Array.isArray(one) && one.length === 0) ||
    (key === "matchLabels" && isMapping(one) && Object.keys(one).length === 0);
  return Object.fromEntries(
    Object.entries(value)
      .filter(([key, one]) => !empty(key, one))
      .map(([key, one]) => [key, withoutEmpty(one)]),
  );
}

const specOf = (object: KubeObject): unknown => withoutEmpty((object as { spec?: unknown }).spec);

/** Whether a stamped object has to be applied. */
export function differs(actual: KubeObject | undefined, stamped: KubeObject): boolean {
  if (actual === undefined || !covers(actual, stamped)) return true;
  return EXACT_KINDS.includes(stamped.kind) && !isDeepStrictEqual(specOf(stamped), specOf(actual));
}
