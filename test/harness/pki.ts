import { execFileSync } from "node:child_process";
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Duplex } from "node:stream";
import { type ConnectionOptions, connect, type TLSSocket } from "node:tls";
import { tempFolder } from "./proxy.ts";
import { RawClient } from "./raw.ts";

/** Key and certificate as files. */
export interface Issued {
  key: string;
  cert: string;
}

/** Options of a certificate. */
interface IssueOptions {
  /** Values of `subjectAltName`, such as `URI:spiffe://a/b`. */
  names?: readonly string[];
  usage?: string;
  /** Seconds from now. */
  from?: number;
  to?: number;
  isCa?: boolean;
  /** Lines of the extensions section. */
  extensions?: readonly string[];
}

const DAY = 86_400;
const EC = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];

/** The time in seconds from now, as openssl reads it. */
function time(seconds: number): string {
  return `${new Date(Date.now() + seconds * 1000).toISOString().replace(/[-:T]/g, "").slice(0, 14)}Z`;
}

const openssl = (args: readonly string[]): string => execFileSync("openssl", args, { stdio: "pipe", encoding: "utf8" });

/** A certificate authority of a test, with its list of revoked certificates. */
export class Pki {
  readonly folder: string;
  readonly file: string;
  readonly #key: string;
  readonly #config: string;

  /** `issuer`: an authority that issues the certificate of this one. */
  constructor(subject = "/CN=test CA", issuer?: Pki, options: IssueOptions = {}) {
    this.folder = tempFolder();
    this.file = join(this.folder, "ca.crt");
    this.#key = join(this.folder, "ca.key");
    this.#config = join(this.folder, "ca.cnf");
    const lines = [
      "[ca]",
      "default_ca=d",
      "[d]",
      `database=${join(this.folder, "index.txt")}`,
      `serial=${join(this.folder, "serial")}`,
      `crlnumber=${join(this.folder, "crlnumber")}`,
      `new_certs_dir=${this.folder}`,
      "default_md=sha256",
      "unique_subject=no",
      "policy=p",
      // RFC 5280 §5.2.1. OpenSSL finds the list of a CA by it, if several have one name.
      "crl_extensions=c",
      "[c]",
      "authorityKeyIdentifier=keyid",
      "[p]",
      "commonName=optional",
      "organizationName=optional",
      "organizationalUnitName=optional",
      "[req]",
      "distinguished_name=dn",
      "[dn]",
    ];
    writeFileSync(this.#config, `${lines.join("\n")}\n`);
    writeFileSync(join(this.folder, "index.txt"), "");
    writeFileSync(join(this.folder, "serial"), "1001\n");
    writeFileSync(join(this.folder, "crlnumber"), "01\n");
    if (issuer === undefined) {
      const request = ["req", "-x509", "-utf8", ...EC, "-days", "30", "-subj", subject, "-config", this.#config];
      const isCa = ["-addext", "basicConstraints=critical,CA:true"];
      openssl([...request, ...isCa, "-keyout", this.#key, "-out", this.file]);
      return;
    }
    const { key, cert } = issuer.issue("sub", subject, { ...options, isCa: true });
    copyFileSync(key, this.#key);
    copyFileSync(cert, this.file);
  }

  /** `subject` such as `/CN=billing`. */
  issue(name: string, subject: string, options: IssueOptions = {}): Issued {
    const path = (kind: string) => join(this.folder, `${name}.${kind}`);
    const [key, cert] = [path("key"), path("crt")];
    const { names = [], usage = "serverAuth,clientAuth", from = -DAY, to = DAY, isCa = false } = options;
    openssl(["req", "-utf8", ...EC, "-subj", subject, "-keyout", key, "-out", path("csr"), "-config", this.#config]);
    const lines = [
      "authorityKeyIdentifier=keyid",
      ...(isCa ? ["subjectKeyIdentifier=hash", "basicConstraints=critical,CA:true"] : [`extendedKeyUsage=${usage}`]),
      ...(names.length > 0 ? [`subjectAltName=${names.join()}`] : []),
      ...(options.extensions ?? []),
    ];
    writeFileSync(path("ext"), `${lines.join("\n")}\n`);
    const sign = ["ca", "-batch", "-notext", "-utf8", "-preserveDN", "-config", this.#config];
    const times = ["-startdate", time(from), "-enddate", time(to)];
    const files = ["-extfile", path("ext"), "-in", path("csr"), "-out", cert];
    openssl([...sign, "-cert", this.file, "-keyfile", this.#key, ...times, ...files]);
    return { key, cert };
  }

  revoke({ cert }: Issued): void {
    const sign = ["-config", this.#config, "-cert", this.file, "-keyfile", this.#key];
    openssl(["ca", ...sign, "-revoke", cert]);
  }

  /** Writes the CRL to a file. Times in seconds from now. */
  crl(file: string, { from = -60, to = 2 * DAY }: { from?: number; to?: number } = {}): string {
    const sign = ["-config", this.#config, "-cert", this.file, "-keyfile", this.#key, "-md", "sha256"];
    openssl(["ca", ...sign, "-gencrl", "-crl_lastupdate", time(from), "-crl_nextupdate", time(to), "-out", file]);
    return file;
  }
}

/** A folder with the files of a TLS port: `tls.crt`, `tls.key`, `ca.crt`, and `ca.crl` with `crl`. */
export function tlsFolder(pki: Pki, server: Issued, crl = false): string {
  const folder = join(pki.folder, `files-${Math.random().toString(36).slice(2)}`);
  mkdirSync(folder);
  copyFileSync(server.cert, join(folder, "tls.crt"));
  copyFileSync(server.key, join(folder, "tls.key"));
  copyFileSync(pki.file, join(folder, "ca.crt"));
  if (crl) pki.crl(join(folder, "ca.crl"));
  return folder;
}

/** The options of a proxy with a TLS port. `clientName`: it requests client certificates. */
export function tlsArgs(folder: string, clientName?: string, crl = false): string[] {
  const file = (name: string) => join(folder, name);
  const args = ["--listen-tls", "127.0.0.1:0", "--tls-cert", file("tls.crt"), "--tls-key", file("tls.key")];
  if (clientName !== undefined) args.push("--tls-client-ca", file("ca.crt"), "--tls-client-name", clientName);
  if (crl) args.push("--tls-crl", file("ca.crl"));
  return args;
}

/** A TLS connection to a proxy; rejects if the handshake fails. */
export function tlsConnect(
  port: number,
  ca: string,
  issued?: Issued,
  more: ConnectionOptions & { allowHalfOpen?: boolean; localAddress?: string } = {},
): Promise<TLSSocket> {
  const mine = issued === undefined ? {} : { cert: readFileSync(issued.cert), key: readFileSync(issued.key) };
  const options = { port, host: "127.0.0.1", ca: readFileSync(ca), ALPNProtocols: ["http/1.1"], ...mine, ...more };
  return new Promise((resolve, reject) => {
    const socket = connect(options, () => {
      socket.removeListener("error", reject);
      resolve(socket);
    });
    socket.once("error", reject);
  });
}

/** The same, as a raw client. */
export async function tlsClient(...args: Parameters<typeof tlsConnect>): Promise<RawClient> {
  return RawClient.over(await tlsConnect(...args));
}

/** Sends bytes on a new TLS connection, and returns all input until the other side ends. */
export async function tlsExchange(bytes: string, ...args: Parameters<typeof tlsConnect>): Promise<string> {
  const client = await tlsClient(...args);
  client.socket.write(bytes, "latin1");
  await client.untilEnd();
  client.socket.destroy();
  return client.text;
}

/** The first bytes of a TLS client. */
export async function clientHello(): Promise<Buffer> {
  const { promise, resolve } = Promise.withResolvers<Buffer>();
  const stream = new Duplex({ read() {}, write: (chunk, _encoding, done) => done(void resolve(chunk)) });
  const client = connect({ socket: stream });
  client.on("error", () => {});
  const bytes = await promise;
  client.destroy();
  return bytes;
}
