import { ANNOTATION, LABEL } from "../../../operator/api/names.ts";
import type { Deployment } from "../../../operator/api/objects.ts";
import { Lasting, type Report, type Rule } from "./violation.ts";
import type { World } from "./world.ts";

/** The watch of Deployments may be later than the proxies of this process. */
const TOLERATED_MS = 500;

/** I4: an exclusive address has one owner, across namespaces: by the Deployments of slots and by running proxies. */
export class Owners implements Rule {
  readonly #world: World;
  readonly #namespaces: readonly string[];
  readonly #report: Report;
  /** Addresses with several owners. */
  readonly #shared = new Lasting(TOLERATED_MS);

  constructor(world: World, namespaces: readonly string[], report: Report) {
    this.#world = world;
    this.#namespaces = namespaces;
    this.#report = report;
  }

  look(now: number, lagMs: number): void {
    this.#shared.begin(now, lagMs);
    for (const [address, owners] of ownersOf(this.#world, this.#namespaces)) {
      if (!this.#shared.note(address, owners.size > 1)) continue;
      this.#report({ invariant: "I4", text: `${address} is used by ${[...owners].sort().join(" and ")}` });
    }
  }
}

/** Policies that have an exclusive address now, by address. */
export function ownersOf(world: World, namespaces: readonly string[]): Map<string, Set<string>> {
  const owners = new Map<string, Set<string>>();
  const add = (address: string | undefined, owner: string) => {
    if (address !== undefined) owners.set(address, (owners.get(address) ?? new Set()).add(owner));
  };
  for (const { metadata } of world.observer.list<Deployment>("deployment", namespaces)) {
    const owner = `${metadata.namespace}/${metadata.labels?.[LABEL.policy]}`;
    for (const key of [ANNOTATION.address, ANNOTATION.source]) add(metadata.annotations?.[key], owner);
  }
  for (const proxy of world.proxies.values()) {
    const { namespace, labels } = proxy.pod.metadata;
    if (!proxy.running || proxy.source === undefined || !namespaces.includes(namespace!)) continue;
    for (const address of [proxy.source, ...proxy.sends]) add(address, `${namespace}/${labels![LABEL.fleet]}`);
  }
  return owners;
}
