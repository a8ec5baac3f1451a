import { createPrivateKey, type KeyObject, X509Certificate } from "node:crypto";
import { createSecureContext } from "node:tls";
import { pemOf, readCertificates } from "./pem.ts";

/** Certificate chain and key of the proxy, which belong together. */
export interface ServerIdentity {
  /** PEM of the chain, the proxy's own certificate first. */
  readonly cert: string;
  /** PEM. It is in no error and in no log. */
  readonly key: string;
  /** Expiry of the certificate (milliseconds since the epoch). */
  readonly validTo: number;
}

const day = (date: Date): string => `${date.toISOString().slice(0, 19)}Z`;

/** The certificates of a file; the first one is valid now. @throws Error */
function readChain(bytes: Buffer, now: number): X509Certificate[] {
  const chain = readCertificates(bytes, (der) => new X509Certificate(der));
  const { validFromDate, validToDate } = chain[0]!;
  if (validToDate.getTime() < now) throw new Error(`the certificate expired on ${day(validToDate)}; renew it`);
  if (validFromDate.getTime() > now) {
    throw new Error(`the certificate is not valid before ${day(validFromDate)}; check the clock`);
  }
  return chain;
}

/** @throws Error */
function readKey(bytes: Buffer): KeyObject {
  const text = bytes.toString("latin1");
  if (/^-----BEGIN ENCRYPTED|^Proc-Type: 4,ENCRYPTED/m.test(text)) {
    throw new Error("the key is encrypted; write one without a passphrase: openssl pkey -in FILE -out NEW");
  }
  if (!/^-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----/m.test(text)) {
    throw new Error('has no private key: no "-----BEGIN PRIVATE KEY-----"');
  }
  try {
    return createPrivateKey(bytes);
  } catch {
    // The message of OpenSSL could quote the file.
    throw new Error("has a malformed private key");
  }
}

/** An error of one of the two files. */
export class IdentityError extends Error {
  readonly file: "cert" | "key";

  constructor(file: "cert" | "key", message: string) {
    super(message);
    this.file = file;
  }
}

function attempt<T>(file: "cert" | "key", read: () => T): T {
  try {
    return read();
  } catch (error) {
    throw new IdentityError(file, (error as Error).message);
  }
}

/** Reads certificate chain and key, and checks that they belong together. @throws IdentityError */
export function readIdentity(certBytes: Buffer, keyBytes: Buffer, now: number): ServerIdentity {
  const chain = attempt("cert", () => readChain(certBytes, now));
  const privateKey = attempt("key", () => readKey(keyBytes));
  if (!chain[0]!.checkPrivateKey(privateKey)) {
    throw new IdentityError(
      "key",
      "the key does not belong to the first certificate of --tls-cert; give a matching pair",
    );
  }
  const cert = chain.map(({ raw }) => pemOf(raw, "CERTIFICATE")).join("");
  const key = privateKey.export({ type: "pkcs8", format: "pem" }) as string;
  // OpenSSL refuses keys that are too short, for example.
  attempt("cert", () => createSecureContext({ cert, key }));
  return { cert, key, validTo: chain[0]!.validToDate.getTime() };
}
