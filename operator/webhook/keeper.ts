import type { Logger } from "../../proxy/cli/log.ts";
import { ANNOTATION, BUNDLE_GIVEN, LABEL, MANAGED_BY } from "../api/names.ts";
import { ApiError, type Client } from "../kube/client.ts";
import { type Clock, systemClock } from "../kube/clock.ts";
import { Controller, type Outcome } from "../kube/controller.ts";
import type { KubeMetrics } from "../kube/metrics.ts";
import { Reflector } from "../kube/reflector.ts";
import type { KubeObject, OwnerReference, Resource } from "../kube/resource.ts";
import { bundleOf, type Held, isExchanging, nextStep, readHeld, type SecretTexts, writeHeld } from "./certs.ts";
import type { WebhookMetrics } from "./metrics.ts";

const SECRETS: Resource = { group: "", version: "v1", kind: "Secret", plural: "secrets", namespaced: true };
const CONFIGURATIONS: Resource = {
  group: "admissionregistration.k8s.io",
  version: "v1",
  kind: "MutatingWebhookConfiguration",
  plural: "mutatingwebhookconfigurations",
  namespaced: false,
};

/** The entry of the webhook configuration. */
export const ENTRY = "inject.egress.outrider.dev";
/** Field manager of `caBundle`, and of nothing else. */
export const BUNDLE_MANAGER = "outrider-webhook";

/** How often certificates are looked at without a change: their life is counted in days. */
const LOOK_MS = 30 * 1000;
/** From when the configuration has the bundle until every API server works with it: they watch it, and may be behind. */
const SETTLE_MS = 30 * 1000;
/** Somebody else may write `caBundle` as well: not answered faster than this. */
const REPAIR_MS = 1000;
const KEY = "certificates";

type Secret = KubeObject & { type?: string; data?: Record<string, string> };
interface Entry {
  name: string;
  clientConfig?: { caBundle?: string };
}
type Configuration = KubeObject & { webhooks?: Entry[] };

export interface KeeperOptions {
  /** Writes whether this replica leads or not: resourceVersions keep replicas from undoing each other's work. */
  client: Client;
  namespace: string;
  /** The Secret. */
  secret: string;
  /** The MutatingWebhookConfiguration whose caBundle is kept right. */
  configuration: string;
  /** DNS names and addresses under which the API server calls. */
  names: readonly string[];
  /** Who takes the Secret with it. */
  owner?: OwnerReference | undefined;
  /** Called with every new certificate, soon after it stands in the Secret. */
  serve(pair: { cert: string; key: string }, ends: number): void;
  log: Logger;
  metrics?: { kube: KubeMetrics; webhook: WebhookMetrics } | undefined;
  clock?: Clock | undefined;
  /** Milliseconds since 1970: what certificates are judged by. */
  wallNow?: (() => number) | undefined;
}

const fromBase64 = (text: string): string => Buffer.from(text, "base64").toString();
const toBase64 = (text: string): string => Buffer.from(text).toString("base64");

function textsOf(secret: Secret): SecretTexts {
  return Object.fromEntries(Object.entries(secret.data ?? {}).map(([key, value]) => [key, fromBase64(value)]));
}

/**
 * Keeps certificates in a Secret, and what the API server trusts. Every replica does: each serves what the Secret has,
 * and whoever sees something due first writes it.
 */
export class CertificateKeeper {
  readonly #options: KeeperOptions;
  readonly #clock: Clock;
  readonly #wallNow: () => number;
  readonly #secrets: Reflector<Secret>;
  readonly #configurations: Reflector<Configuration>;
  readonly #controller: Controller;
  /** What this process saw last. */
  #held: Held | undefined;
  /** Since when the configuration has which bundle. */
  #seen: { bundle: string; at: number } | undefined;
  #repairedAt = Number.NEGATIVE_INFINITY;

  constructor(options: KeeperOptions) {
    const { client, namespace, secret, configuration, log, clock = systemClock } = options;
    this.#options = options;
    this.#clock = clock;
    this.#wallNow = options.wallNow ?? Date.now;
    const metrics = options.metrics?.kube;
    this.#controller = new Controller({
      name: "webhook-certificates",
      workers: 1,
      reconcile: () => this.#reconcile(),
      ...{ log, metrics, clock },
    });
    const onChange = () => this.#controller.enqueue(KEY);
    const shared = { client, log, metrics, clock, onChange };
    const only = (name: string) => `metadata.name=${name}`;
    this.#secrets = new Reflector({ ...shared, resource: SECRETS, namespace, fieldSelector: only(secret) });
    const selector = only(configuration);
    this.#configurations = new Reflector({ ...shared, resource: CONFIGURATIONS, fieldSelector: selector });
  }

  start(): void {
    this.#secrets.start();
    this.#configurations.start();
    const begin = this.#secrets.synced().then(() => {
      this.#controller.enqueue(KEY);
      this.#controller.start();
    });
    begin.catch((error: unknown) => this.#options.log.error({ err: error }, "certificates are not kept"));
  }

  async stop(): Promise<void> {
    await this.#controller.stop();
    await Promise.all([this.#secrets.stop(), this.#configurations.stop()]);
  }

  async #reconcile(): Promise<Outcome> {
    const { namespace, secret: name, names, log } = this.#options;
    const secret = this.#secrets.store.get(`${namespace}/${name}`);
    const held = this.#read(secret);
    if (held !== undefined) this.#serve(held);
    const before = this.#held;
    if (held !== undefined) this.#held = held;
    const trusted = held !== undefined && this.#isTrusted(bundleOf(held));
    const step = nextStep(held, before, { now: this.#wallNow(), names, trusted });
    if (step !== undefined) {
      const written = await this.#write(step.held, secret);
      if (written) log.info({ secret: `${namespace}/${name}`, why: step.why }, "certificates written");
      // What was written, by whomever, comes by the watch.
      return { result: "requeue", afterMs: LOOK_MS };
    }
    if (held === undefined) return { result: "requeue", afterMs: LOOK_MS };
    if (this.#lacksOwner(secret)) await this.#write(held, secret);
    return { result: "requeue", afterMs: await this.#tellTrust(held) };
  }

  /** What the Secret holds; undefined when that is of no use. @throws Error when it is somebody else's */
  #read(secret: Secret | undefined): Held | undefined {
    if (secret === undefined) return undefined;
    const held = readHeld(textsOf(secret));
    if (typeof held !== "string") return held;
    const { namespace, name, labels } = secret.metadata;
    if (labels?.[LABEL.managedBy] !== MANAGED_BY) {
      const mend = "delete it, or mount your own certificates and name them by --webhook-cert-dir";
      throw new Error(`Secret ${namespace}/${name} is not this operator's and ${held}; ${mend}`);
    }
    this.#options.log.warn({ secret: `${namespace}/${name}`, reason: held }, "the Secret is damaged, made anew");
    return undefined;
  }

  #serve({ leaf, leafKey }: Held): void {
    if (this.#held?.leaf.pem === leaf.pem) return;
    this.#options.serve({ cert: leaf.pem, key: leafKey }, leaf.end);
    const until = new Date(leaf.end).toISOString();
    this.#options.log.info({ serial: leaf.x509.serialNumber, until }, "serving a certificate");
  }

  #lacksOwner(secret: Secret | undefined): boolean {
    const { owner } = this.#options;
    return owner !== undefined && !(secret?.metadata.ownerReferences ?? []).some(({ uid }) => uid === owner.uid);
  }

  /** Only if nobody wrote it since it was read; false: another replica was faster. @throws ApiError */
  async #write(held: Held, secret: Secret | undefined): Promise<boolean> {
    const { client, namespace, secret: name, owner } = this.#options;
    const owners = (secret?.metadata.ownerReferences ?? []).filter(({ uid }) => uid !== owner?.uid);
    const metadata = {
      ...secret?.metadata,
      ...{ namespace, name },
      labels: { ...secret?.metadata.labels, [LABEL.managedBy]: MANAGED_BY, [LABEL.component]: "webhook" },
      ownerReferences: owner === undefined ? owners : [...owners, owner],
    };
    const data = Object.fromEntries(Object.entries(writeHeld(held)).map(([key, text]) => [key, toBase64(text)]));
    // The type of a Secret cannot be changed.
    const object = { ...secret, metadata, data, type: secret?.type ?? "kubernetes.io/tls" };
    try {
      if (secret === undefined) await client.create(SECRETS, object);
      else await client.replace(SECRETS, object);
      return true;
    } catch (error) {
      // Both are 409: made, or written, meanwhile.
      if (error instanceof ApiError && error.code === 409) return false;
      throw error;
    }
  }

  /**
   * Undefined where nobody asks for our bundle: without a configuration, or where that says that caBundle is not ours any
   * more. Then this replica is an old one, which must not undo what the upgrade that replaces it has written.
   */
  #entries(): { configuration: Configuration; entries: Entry[] } | undefined {
    const configuration = this.#configurations.store.get(this.#options.configuration);
    if (configuration?.metadata.annotations?.[ANNOTATION.caBundle] === BUNDLE_GIVEN) return undefined;
    if (configuration === undefined) return undefined;
    return { configuration, entries: (configuration.webhooks ?? []).filter(({ name }) => name === ENTRY) };
  }

  /** Whether every API server trusts exactly this bundle by now. Without a configuration nobody calls, and nobody has to. */
  #isTrusted(bundle: string): boolean {
    if (!this.#configurations.hasSynced) return false;
    const found = this.#entries();
    if (found === undefined) return true;
    const isThere = found.entries.every(({ clientConfig }) => clientConfig?.caBundle === toBase64(bundle));
    if (!isThere) {
      this.#seen = undefined;
      return false;
    }
    if (this.#seen?.bundle !== bundle) this.#seen = { bundle, at: this.#clock.now() };
    return this.#clock.now() - this.#seen.at >= SETTLE_MS;
  }

  /** Brings the bundle into the configuration, that field alone. When to look again, in milliseconds. */
  async #tellTrust(held: Held): Promise<number> {
    const { client, log, metrics } = this.#options;
    const found = this.#entries();
    if (found === undefined) return LOOK_MS;
    const { configuration, entries } = found;
    const caBundle = toBase64(bundleOf(held));
    if (entries.every(({ clientConfig }) => clientConfig?.caBundle === caBundle)) {
      return isExchanging(held) && this.#seen !== undefined
        ? Math.max(this.#seen.at + SETTLE_MS - this.#clock.now(), 1)
        : LOOK_MS;
    }
    const wait = this.#repairedAt + REPAIR_MS - this.#clock.now();
    if (wait > 0) return wait;
    this.#repairedAt = this.#clock.now();
    const { name, uid, resourceVersion } = configuration.metadata;
    // With its uid: one that was deleted meanwhile is not made anew with nothing but this field. With its resourceVersion:
    // one whose caBundle was given meanwhile keeps it.
    const object = {
      metadata: { name, uid, resourceVersion },
      webhooks: [{ name: ENTRY, clientConfig: { caBundle } }],
    };
    await client.apply(CONFIGURATIONS, object, { fieldManager: BUNDLE_MANAGER, force: true });
    metrics?.webhook.bundleWritten();
    log.info({ configuration: name }, "caBundle written");
    return LOOK_MS;
  }
}
