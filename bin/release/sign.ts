import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { digestOf } from "../image/oci.ts";
import { CHECKSUMS, chartFile, readManifest, verifyFiles } from "./files.ts";

/**
 * Signs the chart and the checksums of a release with an OpenPGP key. It imports only modules of Node.js, so that no code of a
 * package runs beside the key.
 */

const USAGE = "usage: SIGN_KEY=… node bin/release/sign.ts FOLDER CHECKSUMS-SHA256 SIGNATURES-FOLDER";

/** Public key, beside the files that it signed. */
export const PUBLIC_KEY = "signing-key.asc";

/**
 * Text of a provenance file: Chart.yaml, then the checksum of the package (https://helm.sh/docs/topics/provenance). `helm
 * package --sign` writes the same, but also a new package. The package of the build must not change.
 */
function provenance(folder: string, chart: string): string {
  const metadata = execFileSync("tar", ["-xzOf", join(folder, chart), "outrider/Chart.yaml"], { encoding: "utf8" });
  return `${metadata.trim()}\n\n...\nfiles:\n  ${chart}: ${digestOf(readFileSync(join(folder, chart)))}\n`;
}

/**
 * Signs the files of a folder into another folder; returns the names of the new files. @param key private key in ASCII armour,
 * without a passphrase
 */
export function sign(folder: string, out: string, key: string): string[] {
  const home = mkdtempSync(join(tmpdir(), "outrider-gpg-"));
  const gpg = (args: readonly string[], input: string) =>
    execFileSync("gpg", ["--homedir", home, "--batch", "--no-tty", "--quiet", ...args], {
      input,
      stdio: ["pipe", "pipe", "pipe"],
    });
  try {
    gpg(["--import"], key);
    const chart = chartFile(readManifest(folder).version);
    const files = {
      [`${chart}.prov`]: gpg(["--clearsign", "--digest-algo", "SHA512"], provenance(folder, chart)),
      [`${CHECKSUMS}.asc`]: gpg(["--armor", "--detach-sign"], readFileSync(join(folder, CHECKSUMS), "utf8")),
      [PUBLIC_KEY]: gpg(["--armor", "--export"], ""),
    };
    mkdirSync(out, { recursive: true });
    for (const [name, content] of Object.entries(files)) writeFileSync(join(out, name), content);
    return Object.keys(files);
  } finally {
    // The agent of this home ends with it.
    execFileSync("gpgconf", ["--homedir", home, "--kill", "all"]);
    rmSync(home, { recursive: true });
  }
}

if (import.meta.main) {
  const [folder, checksums, out] = process.argv.slice(2);
  const key = process.env.SIGN_KEY;
  try {
    if (folder === undefined || checksums === undefined || out === undefined) throw new Error(USAGE);
    verifyFiles(folder, checksums);
    if (key) console.log(sign(folder, out, key).join("\n"));
    else console.log("SIGN_KEY is empty: no OpenPGP signatures. Those of cosign need no key.");
  } catch (error) {
    console.error((error as Error).message);
    process.exitCode = 2;
  }
}
