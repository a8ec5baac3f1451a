import { KIND, LABEL } from "../../api/names.ts";
import type { Pod } from "../../api/objects.ts";
import { slotId } from "../../fleet/slots.ts";
import { type KubeObject, keyOf } from "../../kube/resource.ts";
import type { Caches } from "./caches.ts";
import type { Claims } from "./claims.ts";
import type { Holder } from "./facts.ts";

/** Key of the policy that controls an object, which may be deleted. */
function controllerOf({ metadata }: KubeObject): string | undefined {
  const owner = metadata.ownerReferences?.find(({ controller }) => controller === true);
  return owner?.kind === KIND ? keyOf({ metadata: { ...metadata, name: owner.name } }) : undefined;
}

function fleetOf({ metadata }: Pod): string | undefined {
  const name = metadata.labels?.[LABEL.fleet];
  return name === undefined ? undefined : keyOf({ metadata: { ...metadata, name } });
}

/**
 * Policies that hold an address, by the first of: an accepted spec, Deployments, and what remains after them (the
 * Services of slots, and proxies that drain).
 */
export function holdersIn(
  { deployments, services, proxies }: Pick<Caches, "deployments" | "services" | "proxies">,
  claims: Pick<Claims, "ownerOf">,
  address: string,
): readonly Holder[] {
  const claimed = claims.ownerOf(address);
  if (claimed !== undefined) return [{ policy: claimed, draining: false }];
  const keys = [slotId(address), address];
  const find = <T>(cache: { by(index: string, value: string): T[] }, owner: (object: T) => string | undefined) =>
    keys.flatMap((key) => cache.by("held", key)).flatMap((object) => owner(object) ?? []);
  const holders = (policies: readonly string[], draining: boolean) =>
    [...new Set(policies)].map((policy): Holder => ({ policy, draining }));
  const deployed = find(deployments, controllerOf);
  if (deployed.length > 0) return holders(deployed, false);
  return holders([...find(services, controllerOf), ...find(proxies, fleetOf)], true);
}
