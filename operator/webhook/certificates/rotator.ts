import { BUNDLE_SOURCE, LABEL, MANAGED_BY } from "../../api/names.ts";
import { ApiError } from "../../kube/client.ts";
import { type Clock, systemClock } from "../../kube/clock.ts";
import { Controller, type Outcome } from "../../kube/controller.ts";
import { Reflector } from "../../kube/reflector.ts";
import type { KubeObject, OwnerReference, Resource } from "../../kube/resource.ts";
import { type BundleOptions, BundleWriter, fromBase64, toBase64 } from "./bundle.ts";
import {
  bundleOf,
  type HeldCertificates,
  isReplacing,
  nextStep,
  readHeld,
  type SecretTexts,
  writeHeld,
} from "./lifecycle.ts";

const SECRETS: Resource = { group: "", version: "v1", kind: "Secret", plural: "secrets", namespaced: true };

/** Interval of checks without a change. Certificates are valid for days. */
const CHECK_MS = 30 * 1000;
/** Time until every API server uses a new bundle. API servers watch the configuration and may be behind. */
const SETTLE_MS = 30 * 1000;
/** The one key of the controller. */
const RECONCILE_KEY = "certificates";

type Secret = KubeObject & { type?: string; data?: Record<string, string> };

interface RotatorOptions extends Omit<BundleOptions, "clock"> {
  namespace: string;
  /** Name of the Secret. Every replica writes it; resourceVersions prevent conflicts. */
  secret: string;
  /** DNS names and addresses by which the API server calls the webhook. */
  names: readonly string[];
  /** Owner of the Secret, for garbage collection. */
  owner?: OwnerReference | undefined;
  /** Receives every new certificate, soon after it is in the Secret. `ends`: milliseconds since 1970. */
  serve(pair: { cert: string; key: string }, ends: number): void;
  clock?: Clock | undefined;
  /** Milliseconds since 1970. The validity of certificates is compared with it. */
  wallNow?: (() => number) | undefined;
}

function textsOf(secret: Secret): SecretTexts {
  return Object.fromEntries(Object.entries(secret.data ?? {}).map(([key, value]) => [key, fromBase64(value)]));
}

/**
 * Rotates the certificates in a Secret and writes caBundle. Every replica runs it and serves the certificate of the
 * Secret. The first replica that notices a due rotation writes it.
 */
export class CertificateRotator {
  readonly #options: RotatorOptions;
  readonly #clock: Clock;
  readonly #wallNow: () => number;
  readonly #secrets: Reflector<Secret>;
  readonly #bundle: BundleWriter;
  readonly #controller: Controller;
  /** Last certificates that this process read. */
  #held: HeldCertificates | undefined;
  /** The bundle in the configuration, and since when. */
  #seen: { bundle: string; at: number } | undefined;

  constructor(options: RotatorOptions) {
    const { client, namespace, secret, log, metrics, clock = systemClock } = options;
    this.#options = options;
    this.#clock = clock;
    this.#wallNow = options.wallNow ?? Date.now;
    this.#controller = new Controller({
      name: "webhook-certificates",
      workers: 1,
      reconcile: () => this.#reconcile(),
      ...{ log, metrics, clock },
    });
    const onChange = () => this.#controller.enqueue(RECONCILE_KEY);
    const fieldSelector = `metadata.name=${secret}`;
    const shared = { client, log, metrics, clock, onChange };
    this.#secrets = new Reflector({ ...shared, resource: SECRETS, namespace, fieldSelector });
    this.#bundle = new BundleWriter({ ...options, clock, onChange, source: BUNDLE_SOURCE.generated });
  }

  start(): void {
    this.#secrets.start();
    this.#bundle.start();
    const begin = this.#secrets.synced().then(() => {
      this.#controller.enqueue(RECONCILE_KEY);
      this.#controller.start();
    });
    begin.catch((error: unknown) => this.#options.log.error({ err: error }, "certificate rotation failed"));
  }

  async stop(): Promise<void> {
    await this.#controller.stop();
    await Promise.all([this.#secrets.stop(), this.#bundle.stop()]);
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
      // The watch delivers the written Secret.
      return { result: "requeue", afterMs: CHECK_MS };
    }
    if (held === undefined) return { result: "requeue", afterMs: CHECK_MS };
    if (this.#lacksOwner(secret)) await this.#write(held, secret);
    return { result: "requeue", afterMs: await this.#writeBundle(held) };
  }

  /** Reads the Secret; undefined if it is missing or damaged. @throws Error if the operator does not manage it */
  #read(secret: Secret | undefined): HeldCertificates | undefined {
    if (secret === undefined) return undefined;
    const held = readHeld(textsOf(secret));
    if (!("error" in held)) return held;
    const { namespace, name, labels } = secret.metadata;
    if (labels?.[LABEL.managedBy] !== MANAGED_BY) {
      const fix = "delete it, or mount your own certificates and set --webhook-cert-dir";
      throw new Error(`Secret ${namespace}/${name} does not belong to this operator and ${held.error}; ${fix}`);
    }
    this.#options.log.warn(
      { secret: `${namespace}/${name}`, reason: held.error },
      "the Secret is damaged, creating new certificates",
    );
    return undefined;
  }

  #serve({ leaf, leafKey }: HeldCertificates): void {
    if (this.#held?.leaf.pem === leaf.pem) return;
    this.#options.serve({ cert: leaf.pem, key: leafKey }, leaf.end);
    const until = new Date(leaf.end).toISOString();
    this.#options.log.info({ serial: leaf.x509.serialNumber, until }, "serving a certificate");
  }

  #lacksOwner(secret: Secret | undefined): boolean {
    const { owner } = this.#options;
    return owner !== undefined && !(secret?.metadata.ownerReferences ?? []).some(({ uid }) => uid === owner.uid);
  }

  /** Writes the Secret. False if another replica has changed it since it was read. @throws ApiError */
  async #write(held: HeldCertificates, secret: Secret | undefined): Promise<boolean> {
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
      // 409 in both cases: another replica created or wrote it.
      if (error instanceof ApiError && error.code === 409) return false;
      throw error;
    }
  }

  /**
   * Whether every API server trusts exactly this bundle. Without a configuration none calls the webhook, so this is
   * true.
   */
  #isTrusted(bundle: string): boolean {
    if (!this.#bundle.hasSynced) return false;
    const found = this.#bundle.read();
    if (found === undefined) return true;
    if (found.some((one) => one !== bundle)) {
      this.#seen = undefined;
      return false;
    }
    if (this.#seen?.bundle !== bundle) this.#seen = { bundle, at: this.#clock.now() };
    return this.#clock.now() - this.#seen.at >= SETTLE_MS;
  }

  /** Writes caBundle. Returns the time until the next check, in milliseconds. */
  async #writeBundle(held: HeldCertificates): Promise<number> {
    const wait = await this.#bundle.write(bundleOf(held));
    if (wait > 0) return wait;
    return isReplacing(held) && this.#seen !== undefined
      ? Math.max(this.#seen.at + SETTLE_MS - this.#clock.now(), 1)
      : CHECK_MS;
  }
}
