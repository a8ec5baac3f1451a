import type { Logger } from "../../../proxy/cli/log.ts";
import { ANNOTATION, type BundleSource } from "../../api/names.ts";
import type { Client } from "../../kube/client.ts";
import type { Clock } from "../../kube/clock.ts";
import type { KubeMetrics } from "../../kube/metrics.ts";
import { Reflector } from "../../kube/reflector.ts";
import type { KubeObject, Resource } from "../../kube/resource.ts";

const CONFIGURATIONS: Resource = {
  group: "admissionregistration.k8s.io",
  version: "v1",
  kind: "MutatingWebhookConfiguration",
  plural: "mutatingwebhookconfigurations",
  namespaced: false,
};

/** Names of the webhooks in their configuration. That of an older chart has the first one only. */
const WEBHOOK_NAMES = ["inject.egress.outrider.dev", "edits.egress.outrider.dev"];
/** Field manager of `caBundle`, and of nothing else. */
export const BUNDLE_MANAGER = "outrider-webhook";
/** Minimum time between two writes of `caBundle`, in case another program writes it too. */
const REPAIR_MS = 1000;

interface WebhookEntry {
  name: string;
  clientConfig?: { caBundle?: string };
}
type Configuration = KubeObject & { webhooks?: WebhookEntry[] };

/** Target of a {@link BundleWriter}, and what it uses. */
export interface BundleOptions {
  /** Writes on every replica, whether it leads or not. */
  client: Client;
  /** Name of the MutatingWebhookConfiguration whose caBundle is written. */
  configuration: string;
  /** Called after caBundle was written. */
  onBundleWritten?: (() => void) | undefined;
  log: Logger;
  metrics?: KubeMetrics | undefined;
  clock: Clock;
}

/** Watches the webhook configuration, and writes its `caBundle` and no other field. */
export class BundleWriter {
  readonly #options: BundleOptions & { source: BundleSource };
  readonly #configurations: Reflector<Configuration>;
  #writtenAt = Number.NEGATIVE_INFINITY;

  /** `source`: origin of this replica's certificates. `onChange`: called after each change of the configuration. */
  constructor(options: BundleOptions & { source: BundleSource; onChange: () => void }) {
    const { client, configuration, log, metrics, clock, onChange } = options;
    this.#options = options;
    const fieldSelector = `metadata.name=${configuration}`;
    const shared = { client, log, metrics, clock, onChange };
    this.#configurations = new Reflector({ ...shared, resource: CONFIGURATIONS, fieldSelector });
  }

  get hasSynced(): boolean {
    return this.#configurations.hasSynced;
  }

  start(): void {
    this.#configurations.start();
  }

  stop(): Promise<void> {
    return this.#configurations.stop();
  }

  /**
   * The configuration; undefined if it is missing, or if its annotation names the other source. In the latter case an
   * upgrade is replacing this replica, which must not overwrite the new caBundle.
   */
  #found(): Configuration | undefined {
    const { configuration, source } = this.#options;
    const found = this.#configurations.store.get(configuration);
    const named = found?.metadata.annotations?.[ANNOTATION.caBundle];
    return named === undefined || named === source ? found : undefined;
  }

  /** `caBundle` of each entry as PEM; undefined if this replica must not write it. */
  read(): string[] | undefined {
    const found = this.#found();
    return found && entriesOf(found).map(({ clientConfig }) => fromBase64(clientConfig?.caBundle ?? ""));
  }

  /**
   * Writes caBundle, given as PEM, if it differs. Returns the time until it may be written, in milliseconds, or 0.
   * @throws ApiError
   */
  async write(pem: string): Promise<number> {
    const { client, clock, log, onBundleWritten } = this.#options;
    const found = this.#found();
    const caBundle = toBase64(pem);
    if (found === undefined || entriesOf(found).every(({ clientConfig }) => clientConfig?.caBundle === caBundle)) {
      return 0;
    }
    const wait = this.#writtenAt + REPAIR_MS - clock.now();
    if (wait > 0) return wait;
    this.#writtenAt = clock.now();
    const { name, uid, resourceVersion } = found.metadata;
    // The uid prevents apply from creating a deleted configuration again, with this field alone. The resourceVersion
    // protects the caBundle of another source that was written in the meantime.
    const object = {
      metadata: { name, uid, resourceVersion },
      webhooks: entriesOf(found).map(({ name: entry }) => ({ name: entry, clientConfig: { caBundle } })),
    };
    await client.apply(CONFIGURATIONS, object, { fieldManager: BUNDLE_MANAGER, force: true });
    onBundleWritten?.();
    log.info({ configuration: name }, "caBundle written");
    return 0;
  }
}

const entriesOf = ({ webhooks = [] }: Configuration): WebhookEntry[] =>
  webhooks.filter(({ name }) => WEBHOOK_NAMES.includes(name));

/** Text of a base64 value, as `data` of a Secret and `caBundle` have it. */
export const fromBase64 = (text: string): string => Buffer.from(text, "base64").toString();
/** The reverse of {@link fromBase64}. */
export const toBase64 = (text: string): string => Buffer.from(text).toString("base64");
