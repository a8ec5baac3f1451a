import type { Logger } from "../../../proxy/cli/log.ts";
import { ANNOTATION, type BundleSource } from "../../api/names.ts";
import type { Client } from "../../kube/client.ts";
import type { Clock } from "../../kube/clock.ts";
import type { KubeMetrics } from "../../kube/metrics.ts";
import { Reflector } from "../../kube/reflector.ts";
import type { KubeObject, Resource } from "../../kube/resource.ts";

const GROUP = { group: "admissionregistration.k8s.io", version: "v1", namespaced: false } as const;

/** The configurations that have one name, and the webhook of each. */
const CONFIGURATIONS: readonly { resource: Resource; webhook: string }[] = [
  {
    resource: { ...GROUP, kind: "MutatingWebhookConfiguration", plural: "mutatingwebhookconfigurations" },
    webhook: "inject.egress.outrider.dev",
  },
  {
    resource: { ...GROUP, kind: "ValidatingWebhookConfiguration", plural: "validatingwebhookconfigurations" },
    webhook: "edits.egress.outrider.dev",
  },
];

/** Field manager of `caBundle`, and of nothing else. */
export const BUNDLE_MANAGER = "outrider-webhook";
/** Minimum time between two writes of `caBundle`, in case another program writes it too. */
const REPAIR_MS = 1000;

interface WebhookEntry {
  name: string;
  clientConfig?: { caBundle?: string };
}
type Configuration = KubeObject & { webhooks?: WebhookEntry[] };

/** A watched configuration. */
interface Watched {
  resource: Resource;
  webhook: string;
  configurations: Reflector<Configuration>;
  writtenAt: number;
}

/** Target of a {@link BundleWriter}, and what it uses. */
export interface BundleOptions {
  /** Writes on every replica, whether it leads or not. */
  client: Client;
  /** Name of the configurations whose caBundle is written: the mutating and the validating one. */
  configuration: string;
  /** Called after caBundle was written. */
  onBundleWritten?: (() => void) | undefined;
  log: Logger;
  metrics?: KubeMetrics | undefined;
  clock: Clock;
}

/** Watches the webhook configurations, and writes their `caBundle` and no other field. */
export class BundleWriter {
  readonly #options: BundleOptions & { source: BundleSource };
  readonly #watched: readonly Watched[];

  /** `source`: origin of this replica's certificates. `onChange`: called after each change of a configuration. */
  constructor(options: BundleOptions & { source: BundleSource; onChange: () => void }) {
    const { client, configuration, log, metrics, clock, onChange } = options;
    this.#options = options;
    const shared = { client, log, metrics, clock, onChange, fieldSelector: `metadata.name=${configuration}` };
    this.#watched = CONFIGURATIONS.map(({ resource, webhook }) => ({
      ...{ resource, webhook, writtenAt: Number.NEGATIVE_INFINITY },
      configurations: new Reflector<Configuration>({ ...shared, resource }),
    }));
  }

  /**
   * Whether the configuration of the injection is known. An older role does not allow to read the other one, on which
   * injections do not depend.
   */
  get hasSynced(): boolean {
    return this.#watched[0]!.configurations.hasSynced;
  }

  start(): void {
    for (const { configurations } of this.#watched) configurations.start();
  }

  async stop(): Promise<void> {
    await Promise.all(this.#watched.map(({ configurations }) => configurations.stop()));
  }

  /**
   * The webhook's entry with its configuration; undefined if it is missing, or if an annotation names the other source.
   * In the latter case an upgrade is replacing this replica, which must not overwrite the new caBundle.
   */
  #found({ configurations, webhook }: Watched): { metadata: KubeObject["metadata"]; caBundle: string } | undefined {
    const { configuration, source } = this.#options;
    const found = configurations.store.get(configuration);
    const named = found?.metadata.annotations?.[ANNOTATION.caBundle];
    if (found === undefined || (named !== undefined && named !== source)) return undefined;
    const entry = found.webhooks?.find(({ name }) => name === webhook);
    return entry && { metadata: found.metadata, caBundle: entry.clientConfig?.caBundle ?? "" };
  }

  /** `caBundle` of each configuration as PEM; undefined if this replica must not write any. */
  read(): string[] | undefined {
    const bundles = this.#watched.flatMap((one) => this.#found(one)?.caBundle ?? []);
    return bundles.length === 0 ? undefined : bundles.map(fromBase64);
  }

  /**
   * Writes caBundle, given as PEM, where it differs. Returns the time until it may be written, in milliseconds, or 0.
   * @throws ApiError
   */
  async write(pem: string): Promise<number> {
    const waits: number[] = [];
    for (const one of this.#watched) waits.push(await this.#writeTo(one, toBase64(pem)));
    return Math.max(...waits);
  }

  async #writeTo(watched: Watched, caBundle: string): Promise<number> {
    const { client, clock, log, onBundleWritten } = this.#options;
    const found = this.#found(watched);
    if (found === undefined || found.caBundle === caBundle) return 0;
    const wait = watched.writtenAt + REPAIR_MS - clock.now();
    if (wait > 0) return wait;
    watched.writtenAt = clock.now();
    const { name, uid, resourceVersion } = found.metadata;
    // The uid prevents apply from creating a deleted configuration again, with this field alone. The resourceVersion
    // protects the caBundle of another source that was written in the meantime.
    const object = {
      metadata: { name, uid, resourceVersion },
      webhooks: [{ name: watched.webhook, clientConfig: { caBundle } }],
    };
    await client.apply(watched.resource, object, { fieldManager: BUNDLE_MANAGER, force: true });
    onBundleWritten?.();
    log.info({ kind: watched.resource.kind, configuration: name }, "caBundle written");
    return 0;
  }
}

/** Text of a base64 value, as `data` of a Secret and `caBundle` have it. */
export const fromBase64 = (text: string): string => Buffer.from(text, "base64").toString();
/** The reverse of {@link fromBase64}. */
export const toBase64 = (text: string): string => Buffer.from(text).toString("base64");
