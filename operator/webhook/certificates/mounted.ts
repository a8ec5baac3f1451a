import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Logger } from "../../../proxy/cli/log.ts";
import { type Clock, systemClock } from "../../kube/clock.ts";
import { type Certificate, fits, readCertificate, SECRET_KEY } from "./lifecycle.ts";

/** Polling interval of the files. Kubelets replace the links of mounted Secrets, which inotify does not report. */
const POLL_MS = 1000;

/** A certificate with its chain, and its key. */
interface MountedPair {
  cert: string;
  key: string;
  leaf: Certificate;
}

/** @throws Error naming the file */
function readPair(folder: string): MountedPair {
  const text = (name: string): string => {
    const file = join(folder, name);
    try {
      return readFileSync(file, "utf8");
    } catch (error) {
      throw new Error(`${file}: ${(error as NodeJS.ErrnoException).code}`, { cause: error });
    }
  };
  const [cert, key] = [text(SECRET_KEY.leaf), text(SECRET_KEY.leafKey)];
  let leaf: Certificate;
  try {
    leaf = readCertificate(cert);
  } catch (error) {
    throw new Error(`${join(folder, SECRET_KEY.leaf)} is not a PEM certificate`, { cause: error });
  }
  let fitting: boolean;
  try {
    fitting = fits(leaf, key);
  } catch (error) {
    throw new Error(`${join(folder, SECRET_KEY.leafKey)} is not a PEM private key`, { cause: error });
  }
  if (!fitting) throw new Error(`${join(folder, SECRET_KEY.leafKey)} is not the key of ${SECRET_KEY.leaf}`);
  return { cert, key, leaf };
}

/**
 * Serves the certificate of a folder, and each new valid one. Returns a function that ends the polling.
 * @throws Error in one line if there is no valid certificate at the start
 */
export function serveMounted(
  folder: string,
  options: {
    serve(pair: { cert: string; key: string }, ends: number): void;
    log: Logger;
    clock?: Clock | undefined;
  },
): () => void {
  const { serve, log, clock = systemClock } = options;
  let served = "";
  let problem = "";
  const use = ({ cert, key, leaf }: MountedPair) => {
    problem = "";
    if (served === cert + key) return;
    served = cert + key;
    serve({ cert, key }, leaf.end);
    log.info({ serial: leaf.x509.serialNumber, until: new Date(leaf.end).toISOString() }, "serving a certificate");
  };
  const poll = () => {
    try {
      use(readPair(folder));
    } catch (error) {
      const { message } = error as Error;
      // The files may be half written. Each problem is logged once as a warning.
      if (message === problem) log.debug({ reason: message }, "the mounted certificate is not valid");
      else log.warn({ reason: message }, "the mounted certificate is not valid, still serving the last one");
      problem = message;
    }
    cancel = clock.after(POLL_MS, poll);
  };
  use(readPair(folder));
  let cancel = clock.after(POLL_MS, poll);
  return () => cancel();
}
