import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";

/** A certificate authority in a folder, for servers on loopback and for client certificates. */
export class Authority {
  readonly #folder: string;
  readonly file: string;
  readonly #key: string;

  constructor(folder: string) {
    this.#folder = folder;
    this.file = join(folder, "ca.crt");
    this.#key = join(folder, "ca.key");
    const request = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
    this.#openssl([...request, "-subj", "/CN=test", "-keyout", this.#key, "-out", this.file]);
  }

  /** Key and certificate as files: `subject` such as `/O=group/CN=user`, `names` such as `IP:127.0.0.1`. */
  issue(name: string, subject: string, names: readonly string[] = []): { key: string; cert: string } {
    const [key, cert, request, extensions] = ["key", "crt", "csr", "ext"].map((kind) =>
      join(this.#folder, `${name}.${kind}`),
    ) as [string, string, string, string];
    const make = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", subject];
    this.#openssl([...make, "-keyout", key, "-out", request]);
    const lines = ["extendedKeyUsage=serverAuth,clientAuth", ...(names.length > 0 ? [`subjectAltName=${names}`] : [])];
    writeFileSync(extensions, `${lines.join("\n")}\n`);
    const sign = ["x509", "-req", "-CA", this.file, "-CAkey", this.#key, "-CAcreateserial", "-days", "2"];
    this.#openssl([...sign, "-extfile", extensions, "-in", request, "-out", cert]);
    return { key, cert };
  }

  #openssl(args: readonly string[]): void {
    execFileSync("openssl", args, { stdio: "pipe" });
  }
}
