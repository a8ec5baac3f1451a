import { verify, type X509Certificate } from "node:crypto";
import { createSecureContext } from "node:tls";
import { type Element, element, elements, expect, firstIntegers, oidOf, TAG, timeOf } from "./der.ts";
import { pemBlocks, pemOf } from "./pem.ts";

/** A certificate revocation list (RFC 5280 §5). */
export interface Crl {
  /** The DER of the issuer's name. */
  readonly issuer: Buffer;
  /** Milliseconds since the epoch. */
  readonly thisUpdate: number;
  readonly nextUpdate: number;
  /** The revoked serial numbers ({@link serialOf}). */
  readonly serials: ReadonlySet<string>;
  /** For OpenSSL. */
  readonly pem: string;
  /** Whether the key of this certificate signed it. */
  signedBy(certificate: X509Certificate): boolean;
}

/** Digests of signature algorithms; null: the algorithm contains its digest. */
const DIGESTS: Readonly<Record<string, string | null>> = {
  "1.2.840.113549.1.1.11": "sha256",
  "1.2.840.113549.1.1.12": "sha384",
  "1.2.840.113549.1.1.13": "sha512",
  "1.2.840.10045.4.3.2": "sha256",
  "1.2.840.10045.4.3.3": "sha384",
  "1.2.840.10045.4.3.4": "sha512",
  "1.3.101.112": null,
  "1.3.101.113": null,
};
/** [0] EXPLICIT, the extensions of a list. */
const EXTENSIONS = 0xa0;

/** Rejects lists that cover only a part of the certificates: they mark it by a critical extension (RFC 5280 §5.2). */
function refuseCritical(extensions: Element): void {
  for (const extension of elements(expect(elements(extensions.content)[0], TAG.sequence).content)) {
    const [id, critical] = elements(extension.content);
    if (critical?.tag !== TAG.boolean || critical.content[0] === 0) continue;
    const fix = "use a complete list of one CA; partitioned, indirect and delta lists are not supported";
    throw new Error(`the CRL has the critical extension ${oidOf(expect(id, TAG.oid))}; ${fix}`);
  }
}

/** @throws Error */
function readCrl(der: Buffer): Crl {
  const [signed, algorithm, signature] = elements(element(der, TAG.sequence).content);
  const fields = elements(expect(signed, TAG.sequence).content);
  if (fields[0]?.tag === TAG.integer) fields.shift();
  const [, issuer, thisUpdate, ...rest] = fields;
  const nextUpdate = rest[0]?.tag === TAG.utcTime || rest[0]?.tag === TAG.generalizedTime ? rest.shift() : undefined;
  if (nextUpdate === undefined) throw new Error("the CRL has no nextUpdate; RFC 5280 requires it");
  const revoked = rest[0]?.tag === TAG.sequence ? rest.shift() : undefined;
  const extensions = rest.shift();
  if (extensions !== undefined) refuseCritical(expect(extensions, EXTENSIONS));
  const oid = oidOf(expect(elements(expect(algorithm, TAG.sequence).content)[0], TAG.oid));
  const digest = DIGESTS[oid];
  if (digest === undefined) {
    throw new Error(`the signature algorithm ${oid} of the CRL is not supported; use ECDSA, RSA (SHA-2) or EdDSA`);
  }
  const bits = expect(signature, TAG.bitString).content.subarray(1);
  const body = signed!.whole;
  return {
    issuer: expect(issuer, TAG.sequence).whole,
    thisUpdate: timeOf(expect(thisUpdate, TAG.utcTime, TAG.generalizedTime)),
    nextUpdate: timeOf(nextUpdate),
    serials: revoked === undefined ? new Set() : firstIntegers(revoked),
    pem: pemOf(der, "X509 CRL"),
    signedBy: ({ publicKey }) => {
      try {
        return verify(digest, body, publicKey, bits);
      } catch {
        // A key of another kind.
        return false;
      }
    },
  };
}

/** The lists of a file, in PEM or DER. @throws Error */
export function readCrls(bytes: Buffer): Crl[] {
  const blocks = pemBlocks(bytes, "X509 CRL");
  if (blocks.length === 0) throw new Error('has no CRL: no "-----BEGIN X509 CRL-----"');
  return blocks.map((der) => {
    try {
      const crl = readCrl(der);
      // OpenSSL reads fields that are of no use here. Its error must come before the list is in force.
      createSecureContext({ crl: crl.pem });
      return crl;
    } catch (error) {
      const { message } = error as Error;
      throw new Error(/^(?:malformed|Failed)/.test(message) ? `has no valid CRL: ${message}` : message);
    }
  });
}
