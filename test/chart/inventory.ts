import type { ControlPlane } from "../cluster/control-plane.ts";

/** Objects of a cluster: `Kind namespace/name` → uid and resourceVersion. */
export type Inventory = Map<string, { uid: string; version: string }>;

/** Made by everybody, all the time. */
const EVENTS = ["events", "events.events.k8s.io"];

interface Listed {
  kind: string;
  metadata: { namespace?: string; name: string; uid: string; resourceVersion: string };
}

/** Every object of every kind that can be listed. */
export async function inventory(plane: ControlPlane): Promise<Inventory> {
  const kinds = await plane.kubectl(["api-resources", "--verbs=list", "-o", "name"]);
  if (kinds.status !== 0) throw new Error(kinds.stderr);
  const names = kinds.stdout
    .trim()
    .split("\n")
    .filter((name) => !EVENTS.includes(name));
  const found = await plane.kubectl(["get", names.join(","), "-A", "-o", "json", "--ignore-not-found"]);
  if (found.status !== 0) throw new Error(found.stderr);
  const { items } = JSON.parse(found.stdout) as { items: Listed[] };
  return new Map(
    items.map(({ kind, metadata: { namespace, name, uid, resourceVersion: version } }) => [
      `${kind} ${namespace === undefined ? "" : `${namespace}/`}${name}`,
      { uid, version },
    ]),
  );
}

/** Those that are only in the first one. */
export function without(all: Inventory, others: Inventory): string[] {
  return [...all.keys()].filter((key) => !others.has(key)).sort();
}
