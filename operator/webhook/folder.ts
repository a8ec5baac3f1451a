import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Logger } from "../../proxy/cli/log.ts";
import { type Clock, systemClock } from "../kube/clock.ts";
import { type Certificate, fits, KEY, readCertificate } from "./certs.ts";

/** How often the files are looked at: kubelets swap the links of mounted Secrets, which inotify does not tell of. */
const LOOK_MS = 1000;

/** A given certificate with its chain, and its key. */
interface Given {
  cert: string;
  key: string;
  leaf: Certificate;
}

/** @throws Error naming the file */
function readFolder(folder: string): Given {
  const text = (name: string): string => {
    const file = join(folder, name);
    try {
      return readFileSync(file, "utf8");
    } catch (error) {
      throw new Error(`${file}: ${(error as NodeJS.ErrnoException).code}`, { cause: error });
    }
  };
  const [cert, key] = [text(KEY.leaf), text(KEY.leafKey)];
  let leaf: Certificate;
  try {
    leaf = readCertificate(cert);
  } catch (error) {
    throw new Error(`${join(folder, KEY.leaf)} is no certificate in PEM`, { cause: error });
  }
  let fitting: boolean;
  try {
    fitting = fits(leaf, key);
  } catch (error) {
    throw new Error(`${join(folder, KEY.leafKey)} is no private key in PEM`, { cause: error });
  }
  if (!fitting) throw new Error(`${join(folder, KEY.leafKey)} is not the key of ${KEY.leaf}`);
  return { cert, key, leaf };
}

/**
 * Serves the certificate of a folder, and each new one: whole and valid, else the last good one stays. Returns what ends
 * it. @throws Error in one line when there is none to begin with
 */
export function watchFolder(
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
  const use = ({ cert, key, leaf }: Given) => {
    problem = "";
    if (served === cert + key) return;
    served = cert + key;
    serve({ cert, key }, leaf.end);
    log.info({ serial: leaf.x509.serialNumber, until: new Date(leaf.end).toISOString() }, "serving a certificate");
  };
  const look = () => {
    try {
      use(readFolder(folder));
    } catch (error) {
      const { message } = error as Error;
      // Also what is half written at this moment: said once, and when it stays.
      if (message === problem) log.debug({ reason: message }, "certificates are not usable");
      else log.warn({ reason: message }, "certificates are not usable, the last ones are served on");
      problem = message;
    }
    cancel = clock.after(LOOK_MS, look);
  };
  use(readFolder(folder));
  let cancel = clock.after(LOOK_MS, look);
  return () => cancel();
}
