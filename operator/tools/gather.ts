import type { EgressPolicy } from "../api/egresspolicy.ts";
import { RESOURCE } from "../api/kinds.ts";
import { KIND, LABEL } from "../api/names.ts";
import type { Pod } from "../api/objects.ts";
import type { Client } from "../kube/client.ts";
import { EVENTS } from "../kube/events.ts";
import type { KubeObject, Resource } from "../kube/resource.ts";
import { type EventObject, type FleetView, fleetOf, viewOf } from "../overview/overview.ts";
import { ASK_MS, askAll, askStatus, isRunning, whyNot } from "./ask.ts";
import { missingRight } from "./failure.ts";

/** Views of policies, and the rights that parts of them need. */
export interface Gathered {
  fleets: FleetView[];
  /** Each one once, such as `list events in the namespace "convoy"`. */
  missing: string[];
}

interface GatherOptions {
  /** Undefined: all. */
  namespace: string | undefined;
  /** Whether to ask the running proxies for their version and hash. */
  isAsking: boolean;
}

/** Reads the objects around policies. Parts that the caller may not read are null. */
export async function gather(
  client: Client,
  policies: readonly EgressPolicy[],
  { namespace, isAsking }: GatherOptions,
): Promise<Gathered> {
  const missing = new Set<string>();
  const orMissing = async <T>(reading: Promise<T>): Promise<T | undefined> => {
    try {
      return await reading;
    } catch (error) {
      const right = missingRight(error);
      if (right === undefined) throw error;
      missing.add(right);
      return undefined;
    }
  };
  const one = policies.length === 1 ? policies[0] : undefined;
  const about = `involvedObject.kind=${KIND}${one === undefined ? "" : `,involvedObject.name=${one.metadata.name}`}`;
  const labelSelector = one === undefined ? LABEL.fleet : `${LABEL.fleet}=${one.metadata.name}`;
  const list = <T extends KubeObject>(resource: Resource, options: object) =>
    orMissing(client.listAll<T>(resource, { namespace, ...options }).then(({ items }) => items));
  const [proxies, pods, events, namespaces] = await Promise.all([
    list<Pod>(RESOURCE.pod, { labelSelector }),
    list<KubeObject>(RESOURCE.pod, { metadataOnly: true }),
    list<EventObject>(EVENTS, { fieldSelector: about }),
    namespacesOf(client, policies),
  ]);
  const fleets = policies.map((policy) => {
    const own = <T extends Pick<KubeObject, "metadata">>(objects: readonly T[] | undefined) =>
      objects?.filter(({ metadata }) => metadata.namespace === policy.metadata.namespace);
    return viewOf({
      policy,
      proxies: own(proxies),
      pods: own(pods),
      namespaceLabels: namespaces.get(policy.metadata.namespace!),
      events: own(events),
    });
  });
  if (isAsking && proxies !== undefined) await addAnswers(client, fleets, proxies, missing);
  return { fleets, missing: [...missing] };
}

/** Labels of the namespaces of policies. Few readers may get namespaces; those without the right lack only opt-outs. */
async function namespacesOf(
  client: Client,
  policies: readonly EgressPolicy[],
): Promise<Map<string, Record<string, string> | undefined>> {
  const names = [...new Set(policies.map(({ metadata }) => metadata.namespace!))];
  const labels = new Map<string, Record<string, string> | undefined>();
  if (names.length === 1) {
    const found = await client.get(RESOURCE.namespace, names[0]!).catch(() => undefined);
    labels.set(names[0]!, found?.metadata.labels);
  } else if (names.length > 1) {
    const { items } = await client.listAll(RESOURCE.namespace, { metadataOnly: true }).catch(() => ({ items: [] }));
    for (const { metadata } of items) labels.set(metadata.name, metadata.labels);
  }
  return labels;
}

/** Adds versions and hashes from `/status` of the proxies. */
async function addAnswers(
  client: Client,
  fleets: readonly FleetView[],
  proxies: readonly Pod[],
  missing: Set<string>,
): Promise<void> {
  const running = proxies.filter((pod) => isRunning(pod) && fleets.some((fleet) => isOf(fleet, pod)));
  for (const { pod, answer, error } of await askAll(running, (pod) => askStatus(client, pod, ASK_MS))) {
    const fleet = fleets.find((one) => isOf(one, pod))!;
    const view = fleet.proxies?.find((one) => one.pod === pod.metadata.name);
    if (view === undefined) continue;
    if (answer !== undefined) Object.assign(view, { version: answer.version, hash: answer.hash });
    const right = missingRight(error);
    if (right !== undefined) missing.add(right);
    else if (error !== undefined) view.problem = `does not answer: ${whyNot(error)}`;
  }
}

const isOf = (fleet: FleetView, pod: Pod) => fleet.name === fleetOf(pod) && fleet.namespace === pod.metadata.namespace;
