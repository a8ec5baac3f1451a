import { execFileSync, spawnSync } from "node:child_process";
import { isIP } from "node:net";
import { join } from "node:path";

/** Why no certificate can be made here; null when one can. */
export function opensslMissing(): string | null {
  return spawnSync("openssl", ["version"]).error === undefined ? null : "needs openssl (Debian: openssl)";
}

/** Makes a key and a self-signed certificate for these names and IP addresses, as files of a folder. */
export function makeCertificate(folder: string, names: readonly string[]): { key: string; cert: string } {
  const [key, cert] = [join(folder, "key.pem"), join(folder, "ca.pem")];
  const request = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
  const subjects = names.map((name) => `${isIP(name) === 0 ? "DNS" : "IP"}:${name}`);
  const subject = ["-subj", "/CN=test", "-addext", `subjectAltName=${subjects.join()}`];
  execFileSync("openssl", [...request, ...subject, "-keyout", key, "-out", cert], { stdio: "ignore" });
  return { key, cert };
}
