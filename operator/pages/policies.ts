import type { EgressPolicy, EgressPolicySpec } from "../api/egresspolicy.ts";
import { KIND } from "../api/names.ts";
import { ApiError, type Client } from "../kube/client.ts";
import { EVENTS } from "../kube/events.ts";
import { keyOf } from "../kube/resource.ts";
import type { ConditionHistory } from "../overview/history.ts";
import type { EventObject, FleetObjects } from "../overview/overview.ts";
import { detailOf, listOf, type PolicyDetail, type PolicyList } from "../overview/page-data.ts";
import type { Caches } from "../reconcile/facts/caches.ts";
import { configMapsOf } from "../reconcile/facts/gather.ts";
import type { StatusScraper } from "../reconcile/facts/status-scraper.ts";
import type { InForce } from "../reconcile/in-force.ts";
import type { PolicyRecords } from "../reconcile/writes/records.ts";

/** Replica that answers. */
export interface Replica {
  identity: string;
  leads: boolean;
  /** Identity of the leader as far as this replica knows; null: none. */
  leader: string | null;
  /** Start of the history of conditions (RFC 3339). */
  since: string;
  /** False until all caches have their first list. */
  synced: boolean;
}

/** Answer of `/policies.json`. */
export interface ListAnswer extends PolicyList {
  at: string;
  replica: Replica;
}

/** Answer of `/policy.json`. */
export interface DetailAnswer {
  at: string;
  replica: Replica;
  policy: PolicyDetail;
  /** Why there are no Events; null: they were read. */
  eventsError: string | null;
}

/** Sources of the answers. */
export interface PolicySources {
  caches: Caches;
  scraper: Pick<StatusScraper, "latest">;
  records: Pick<PolicyRecords, "read">;
  inForce(policy: EgressPolicy): InForce;
  history: Pick<ConditionHistory, "of">;
  /** Reads Events. Its own connections. */
  client: Pick<Client, "list">;
  replica(): Replica;
}

/** Time for which a list, or the Events of a policy, are used again, in milliseconds: several pages may poll. */
const LIST_MS = 1000;
const EVENTS_MS = 10_000;
/** Policies whose Events are kept. */
const MAX_EVENT_LISTS = 32;
/** Events that are read of a policy. The recorder writes few (client-go's limits), and they expire after an hour. */
const EVENTS_LIMIT = 500;
const CALL_MS = 5000;

interface Events {
  events: readonly EventObject[] | undefined;
  error: string | null;
}

function whyNot(error: unknown): string {
  if (error instanceof ApiError && error.code === 403) {
    return "the operator has no right to list Events; the chart grants it with page.enabled";
  }
  return (error as Error).message;
}

/** Answers about policies from the caches of this replica. */
export class PolicyAnswers {
  readonly #sources: PolicySources;
  #list: { at: number; list: PolicyList } | undefined;
  readonly #events = new Map<string, { at: number; events: Promise<Events> }>();

  constructor(sources: PolicySources) {
    this.#sources = sources;
  }

  list(now: number): ListAnswer {
    if (this.#list === undefined || now - this.#list.at >= LIST_MS) {
      this.#list = {
        at: now,
        list: listOf(this.#sources.caches.policies.list(), (policy) => this.#formerSpec(policy)),
      };
    }
    const { at, list } = this.#list;
    return { at: new Date(at).toISOString(), replica: this.#sources.replica(), ...list };
  }

  /** Undefined: there is no such policy. `key`: namespace/name. */
  async detail(key: string, now: number): Promise<DetailAnswer | undefined> {
    const { caches, history, replica } = this.#sources;
    const known = caches.policies.get(key);
    if (known === undefined) return undefined;
    const { events, error } = await this.#eventsOf(known, now);
    const policy = caches.policies.get(key) ?? known;
    const detail = detailOf({ ...this.#objects(policy), events }, history.of(policy));
    return { at: new Date(now).toISOString(), replica: replica(), policy: detail, eventsError: error };
  }

  /** The last accepted spec while the newest is rejected. */
  #formerSpec(policy: EgressPolicy): EgressPolicySpec | undefined {
    const running = this.#sources.inForce(policy);
    return running.rejected === undefined || running.policy.spec === policy.spec ? undefined : running.policy.spec;
  }

  #objects(policy: EgressPolicy): Omit<FleetObjects, "events"> {
    const { caches, scraper, records } = this.#sources;
    const key = keyOf(policy);
    return {
      policy,
      proxies: caches.proxies.by("owner", key),
      pods: caches.pods.by("requested", key).filter(({ metadata }) => metadata.deletionTimestamp === undefined),
      namespaceLabels: caches.namespaces?.get(policy.metadata.namespace!)?.metadata.labels,
      inForce: this.#formerSpec(policy),
      answerOf: (pod) => scraper.latest(pod),
      published: records.read(policy, configMapsOf(caches, policy)).published,
    };
  }

  #eventsOf({ metadata }: EgressPolicy, now: number): Promise<Events> {
    const uid = metadata.uid!;
    const known = this.#events.get(uid);
    if (known !== undefined && now - known.at < EVENTS_MS) return known.events;
    const { namespace, name } = metadata;
    const fieldSelector = `involvedObject.kind=${KIND},involvedObject.name=${name}`;
    const events = this.#sources.client
      .list<EventObject>(EVENTS, { namespace, fieldSelector, limit: EVENTS_LIMIT, timeoutMs: CALL_MS })
      .then(
        ({ items }): Events => ({ events: items, error: null }),
        (error: unknown): Events => ({ events: undefined, error: whyNot(error) }),
      );
    this.#events.delete(uid);
    this.#events.set(uid, { at: now, events });
    if (this.#events.size > MAX_EVENT_LISTS) this.#events.delete(this.#events.keys().next().value!);
    return events;
  }
}
