import { KIND, LABEL } from "../../api/names.ts";
import type { Deployment, Pod, Service } from "../../api/objects.ts";
import { slotId } from "../../fleet/slots.ts";
import { type KubeObject, keyOf } from "../../kube/resource.ts";
import { exclusiveAddresses } from "../../providers/exclusive.ts";
import { type Grants, isGranted } from "../../providers/grants.ts";
import type { Caches } from "./caches.ts";
import type { Claims } from "./claims.ts";
import type { Facts, Holder } from "./facts.ts";

/** Key of the policy that controls an object, which may be deleted. */
function controllerOf({ metadata }: KubeObject): string | undefined {
  const owner = metadata.ownerReferences?.find(({ controller }) => controller === true);
  return owner?.kind === KIND ? keyOf({ metadata: { ...metadata, name: owner.name } }) : undefined;
}

function fleetOf({ metadata }: Pod): string | undefined {
  const name = metadata.labels?.[LABEL.fleet];
  return name === undefined ? undefined : keyOf({ metadata: { ...metadata, name } });
}

/** Inputs that decide whether objects of a policy are evidence that it holds an address. */
interface Evidence {
  claims: Pick<Claims, "ownerOf">;
  grants: Grants;
  acceptedSpecOf: Facts["acceptedSpecOf"];
}

/**
 * Whether Deployments and Services of a policy are evidence. Tenants can create such objects, so the namespace needs a
 * grant for the address, or the last accepted spec of the policy has it: a grant may have been revoked.
 */
function mayHold(
  { policies }: Pick<Caches, "policies">,
  { grants, acceptedSpecOf }: Evidence,
  key: string,
  address: string,
): boolean {
  if (isGranted(grants, key.split("/")[0]!, address)) return true;
  const policy = policies.get(key);
  const spec = policy === undefined ? undefined : acceptedSpecOf(policy);
  return spec !== undefined && exclusiveAddresses(spec).has(address);
}

/**
 * Policies that hold an address, by the first of: an accepted spec, Deployments, and what remains after them (the
 * Services of slots, and proxies that drain). Proxies need no other evidence: only privileged users may create pods on
 * the networks of nodes.
 */
export function holdersIn(
  caches: Pick<Caches, "policies" | "deployments" | "services" | "proxies">,
  evidence: Evidence,
  address: string,
): readonly Holder[] {
  const { deployments, services, proxies } = caches;
  const claimed = evidence.claims.ownerOf(address);
  if (claimed !== undefined) return [{ policy: claimed, draining: false }];
  const keys = [slotId(address), address];
  const find = <T>(cache: { by(index: string, value: string): T[] }, owner: (object: T) => string | undefined) =>
    keys.flatMap((key) => cache.by("held", key)).flatMap((object) => owner(object) ?? []);
  const holders = (policies: readonly string[], draining: boolean) =>
    [...new Set(policies)].map((policy): Holder => ({ policy, draining }));
  const controlled = <T extends KubeObject>(cache: { by(index: string, value: string): T[] }) =>
    find(cache, controllerOf).filter((policy) => mayHold(caches, evidence, policy, address));
  const deployed = controlled<Deployment>(deployments);
  if (deployed.length > 0) return holders(deployed, false);
  return holders([...controlled<Service>(services), ...find(proxies, fleetOf)], true);
}
