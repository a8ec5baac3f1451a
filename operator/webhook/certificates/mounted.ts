import { readFileSync } from "node:fs";
import { join } from "node:path";
import { BUNDLE_SOURCE } from "../../api/names.ts";
import { type Clock, systemClock } from "../../kube/clock.ts";
import { Controller, type Outcome } from "../../kube/controller.ts";
import { type BundleOptions, BundleWriter } from "./bundle.ts";
import {
  bundleOf,
  type Certificate,
  fits,
  isSignedBy,
  readCertificate,
  readCertificates,
  SECRET_KEY,
} from "./lifecycle.ts";
import { mergedBundle, otherAuthorities } from "./merge.ts";

/** Polling interval of the files. Kubelets replace the links of mounted Secrets, which inotify does not report. */
const POLL_MS = 1000;
/**
 * Time for which caBundle keeps authorities that are not in `ca.crt`. Other replicas may still serve their certificates:
 * kubelets update volumes within two minutes, and an upgrade replaces one replica after the other.
 */
const OVERLAP_MS = 5 * 60 * 1000;
/** Time until every API server uses a new bundle. API servers watch the configuration. */
const SETTLE_MS = 5 * 1000;
/** Interval of checks without a change. */
const CHECK_MS = 30 * 1000;
/** The one key of the controller. */
const RECONCILE_KEY = "bundle";

const FIX = `add the PEM of the authority that signed ${SECRET_KEY.leaf}: to the Secret as key ${SECRET_KEY.bundle}, or as the chart's value webhook.certificates.caBundle`;

/** A certificate with its chain, its key, and the authorities that the API server should trust. */
interface Mounted {
  cert: string;
  key: string;
  chain: [Certificate, ...Certificate[]];
  authorities: Certificate[];
}

/** @throws Error naming the file and the fix */
function readMounted(folder: string): Mounted {
  const path = (name: string) => join(folder, name);
  const text = (name: string, fix = ""): string => {
    try {
      return readFileSync(path(name), "utf8");
    } catch (error) {
      throw new Error(`${path(name)}: ${(error as NodeJS.ErrnoException).code}${fix}`, { cause: error });
    }
  };
  const [cert, key] = [text(SECRET_KEY.leaf), text(SECRET_KEY.leafKey)];
  const certificates = (name: string, pem: string, fix = ""): [Certificate, ...Certificate[]] => {
    try {
      const [first = readCertificate(pem), ...rest] = readCertificates(pem);
      return [first, ...rest];
    } catch (error) {
      throw new Error(`${path(name)} is not a PEM certificate${fix}`, { cause: error });
    }
  };
  const chain = certificates(SECRET_KEY.leaf, cert);
  let fitting: boolean;
  try {
    fitting = fits(chain[0], key);
  } catch (error) {
    throw new Error(`${path(SECRET_KEY.leafKey)} is not a PEM private key`, { cause: error });
  }
  if (!fitting) throw new Error(`${path(SECRET_KEY.leafKey)} is not the key of ${SECRET_KEY.leaf}`);
  const authorities = certificates(SECRET_KEY.bundle, text(SECRET_KEY.bundle, `; ${FIX}`), `; ${FIX}`);
  if (!isSignedBy(chain, authorities)) {
    throw new Error(`${path(SECRET_KEY.bundle)} did not sign ${SECRET_KEY.leaf}; ${FIX}`);
  }
  return { cert, key, chain, authorities };
}

function isSame(one: Mounted, other: Mounted): boolean {
  const { cert, key, authorities } = other;
  return one.cert === cert && one.key === key && bundleOf(one) === bundleOf({ authorities });
}

interface MountedOptions extends Omit<BundleOptions, "clock"> {
  /** Folder with {@link SECRET_KEY.leaf}, {@link SECRET_KEY.leafKey} and {@link SECRET_KEY.bundle}. */
  folder: string;
  /** Receives every new certificate. `ends`: milliseconds since 1970. */
  serve(pair: { cert: string; key: string }, ends: number): void;
  clock?: Clock | undefined;
}

/**
 * Serves the certificate of a folder, and each new valid one, and writes its authorities into caBundle. Every replica
 * runs it.
 */
export class MountedCertificates {
  readonly #options: MountedOptions;
  readonly #clock: Clock;
  readonly #bundle: BundleWriter;
  readonly #controller: Controller;
  #mounted: Mounted;
  #served: Mounted | undefined;
  #problem = "";
  /** Authorities of caBundle that are not mounted, and since when. */
  #others = { key: "", since: 0 };
  /** Since when caBundle has the authority of the mounted certificate. */
  #trustedSince: number | undefined;
  #cancel = () => {};

  /** @throws Error in one line if there is no valid certificate */
  constructor(options: MountedOptions) {
    const { log, metrics, clock = systemClock } = options;
    this.#options = options;
    this.#clock = clock;
    this.#mounted = readMounted(options.folder);
    this.#controller = new Controller({
      name: "webhook-certificates",
      workers: 1,
      reconcile: () => this.#reconcile(),
      ...{ log, metrics, clock },
    });
    const onChange = () => this.#controller.enqueue(RECONCILE_KEY);
    this.#bundle = new BundleWriter({ ...options, clock, onChange, source: BUNDLE_SOURCE.given });
  }

  start(): void {
    this.#serve();
    this.#bundle.start();
    this.#controller.start();
    this.#controller.enqueue(RECONCILE_KEY);
    this.#cancel = this.#clock.after(POLL_MS, () => this.#poll());
  }

  async stop(): Promise<void> {
    this.#cancel();
    await this.#controller.stop();
    await this.#bundle.stop();
  }

  #serve(): void {
    const { cert, key, chain } = this.#mounted;
    if (this.#served?.cert === cert && this.#served.key === key) return;
    this.#served = this.#mounted;
    const [leaf] = chain;
    this.#options.serve({ cert, key }, leaf.end);
    const until = new Date(leaf.end).toISOString();
    this.#options.log.info({ serial: leaf.x509.serialNumber, until }, "serving a certificate");
  }

  #poll(): void {
    const { log, folder } = this.#options;
    try {
      const read = readMounted(folder);
      this.#problem = "";
      if (!isSame(read, this.#mounted)) {
        this.#mounted = read;
        this.#controller.enqueue(RECONCILE_KEY);
      }
    } catch (error) {
      const { message } = error as Error;
      // The files may be half written. Each problem is logged once as a warning.
      if (message === this.#problem) log.debug({ reason: message }, "the mounted certificate is not valid");
      else log.warn({ reason: message }, "the mounted certificate is not valid, still serving the last one");
      this.#problem = message;
    }
    this.#cancel = this.#clock.after(POLL_MS, () => this.#poll());
  }

  async #reconcile(): Promise<Outcome> {
    const bundles = this.#bundle.read();
    // No API server calls this replica, or another source owns caBundle, or the operator may not read it.
    if (bundles === undefined) {
      this.#serve();
      return { result: "requeue", afterMs: CHECK_MS };
    }
    const { chain, authorities } = this.#mounted;
    const current = bundles[0] ?? "";
    if (!isSignedBy(chain, readCertificates(current))) this.#trustedSince = undefined;
    else this.#trustedSince ??= this.#clock.now();
    const settled = this.#trustedSince !== undefined && this.#clock.now() - this.#trustedSince >= SETTLE_MS;
    if (settled) this.#serve();
    const others = otherAuthorities(current, authorities);
    const key = bundleOf({ authorities: others });
    if (key !== this.#others.key) this.#others = { key, since: this.#clock.now() };
    const isOver = this.#clock.now() - this.#others.since >= OVERLAP_MS;
    const wait = await this.#bundle.write(mergedBundle(bundles, authorities, isOver ? [] : others));
    if (wait > 0) return { result: "requeue", afterMs: wait };
    return { result: "requeue", afterMs: settled ? CHECK_MS : SETTLE_MS };
  }
}
