import { execFileSync } from "node:child_process";
import { chmodSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { tempFolder } from "../harness/proxy.ts";

/** An OpenPGP key of a test. */
export interface Key {
  /** Its `GNUPGHOME`. The caller ends the agent in it with {@link endAgent}. */
  home: string;
  /** Private key in ASCII armour. */
  key: string;
  /** Public keys as a file of the older format, which Helm reads. */
  ring: string;
  fingerprint: string;
}

/** Makes a key in a home of its own. */
export function makeKey(): Key {
  const home = tempFolder();
  chmodSync(home, 0o700);
  const gpg = (...args: string[]) =>
    execFileSync(
      "gpg",
      ["--homedir", home, "--batch", "--quiet", "--pinentry-mode=loopback", "--passphrase=", ...args],
      {
        stdio: ["ignore", "pipe", "pipe"],
      },
    );
  gpg("--quick-generate-key", "Release test <release@example.org>", "rsa3072", "sign", "never");
  const ring = join(home, "ring.gpg");
  writeFileSync(ring, gpg("--export"));
  const fingerprint = /^fpr:+([0-9A-F]{40}):/m.exec(gpg("--list-keys", "--with-colons").toString())![1]!;
  return { home, key: gpg("--armor", "--export-secret-keys").toString(), ring, fingerprint };
}

/** Ends the agent of a home. */
export const endAgent = (home: string): void =>
  void execFileSync("gpgconf", ["--homedir", home, "--kill", "all"], { stdio: "ignore" });
