import { createHash, createPrivateKey, createPublicKey, generateKeyPairSync, type KeyObject, sign } from "node:crypto";
import { isIP } from "node:net";
import ipaddr from "ipaddr.js";

/**
 * Creates X.509 certificates (RFC 5280) with P-256 keys. Node's crypto can read certificates but not create them. The
 * DER (ITU-T X.690) that they need takes a few lines.
 */

/** DER tags. */
const TAG = {
  boolean: 0x01,
  integer: 0x02,
  bits: 0x03,
  octets: 0x04,
  oid: 0x06,
  text: 0x0c,
  utcTime: 0x17,
  time: 0x18,
  sequence: 0x30,
  set: 0x31,
  version: 0xa0,
  extensions: 0xa3,
  keyId: 0x80,
  dnsName: 0x82,
  ipAddress: 0x87,
} as const;

const OID = {
  ecdsaWithSHA256: "1.2.840.10045.4.3.2",
  commonName: "2.5.4.3",
  subjectKeyId: "2.5.29.14",
  keyUsage: "2.5.29.15",
  subjectAltName: "2.5.29.17",
  basicConstraints: "2.5.29.19",
  authorityKeyId: "2.5.29.35",
  extKeyUsage: "2.5.29.37",
  serverAuth: "1.3.6.1.5.5.7.3.1",
} as const;

/** Certificates are valid from this long before their creation, since clocks of clients may be behind. */
export const BACKDATE_MS = 60 * 60 * 1000;
/** First year with four digits in times (RFC 5280 §4.1.2.5). */
const FIRST_LONG_YEAR = 2050;

function der(tag: number, ...parts: Uint8Array[]): Buffer {
  const body = Buffer.concat(parts);
  if (body.length < 0x80) return Buffer.concat([Buffer.from([tag, body.length]), body]);
  const size = Buffer.from(body.length.toString(16).padStart(body.length > 0xff ? 4 : 2, "0"), "hex");
  if (size.length > 2) throw new Error("a certificate above 64 KiB");
  return Buffer.concat([Buffer.from([tag, 0x80 | size.length]), size, body]);
}

const sequence = (...parts: Uint8Array[]): Buffer => der(TAG.sequence, ...parts);

function oid(text: string): Buffer {
  const [first, second, ...rest] = text.split(".").map(Number) as [number, number, ...number[]];
  const bytes = [first * 40 + second];
  for (const arc of rest) {
    const digits = [arc & 0x7f];
    for (let left = arc >>> 7; left > 0; left >>>= 7) digits.unshift(0x80 | (left & 0x7f));
    bytes.push(...digits);
  }
  return der(TAG.oid, Buffer.from(bytes));
}

/** A positive INTEGER in its shortest form. */
function positive(bytes: Buffer): Buffer {
  const start = bytes.findIndex((byte) => byte !== 0);
  const least = start < 0 ? Buffer.from([0]) : bytes.subarray(start);
  return der(TAG.integer, least[0]! > 0x7f ? Buffer.concat([Buffer.from([0]), least]) : least);
}

function time(ms: number): Buffer {
  const date = new Date(ms);
  const digits = date.toISOString().replace(/[-:T]|\.\d+/g, "");
  if (date.getUTCFullYear() >= FIRST_LONG_YEAR) return der(TAG.time, Buffer.from(digits));
  return der(TAG.utcTime, Buffer.from(digits.slice(2)));
}

const commonName = (name: string): Buffer =>
  sequence(der(TAG.set, sequence(oid(OID.commonName), der(TAG.text, Buffer.from(name)))));

function extension(id: string, value: Buffer, critical = false): Buffer {
  const flag = critical ? [der(TAG.boolean, Buffer.from([0xff]))] : [];
  return sequence(oid(id), ...flag, der(TAG.octets, value));
}

/** KeyUsage: bit 0 is digitalSignature, bit 5 keyCertSign (RFC 5280 §4.2.1.3). */
function keyUsage(bit: 0 | 5): Buffer {
  return extension(OID.keyUsage, der(TAG.bits, Buffer.from([7 - bit, 0x80 >> bit])), true);
}

/** SHA-1 of the key bits, as RFC 5280 §4.2.1.2 proposes. It identifies a key and protects nothing. */
function keyId(key: KeyObject): Buffer {
  const { x, y } = key.export({ format: "jwk" });
  const point = Buffer.concat([Buffer.from([4]), Buffer.from(x!, "base64url"), Buffer.from(y!, "base64url")]);
  return createHash("sha1").update(point).digest();
}

function altName(name: string): Buffer {
  if (isIP(name) === 0) return der(TAG.dnsName, Buffer.from(name, "latin1"));
  return der(TAG.ipAddress, Buffer.from(ipaddr.parse(name).toByteArray()));
}

function pem(kind: string, body: Buffer): string {
  return `-----BEGIN ${kind}-----\n${body.toString("base64").replace(/.{1,64}/g, "$&\n")}-----END ${kind}-----\n`;
}

/** A certificate and its key, as PEM. */
export interface Pair {
  cert: string;
  key: string;
}

/** Content of a certificate besides its extensions by kind. */
interface Content {
  subject: string;
  issuer: string;
  issuerKey: KeyObject;
  serial: Buffer;
  now: number;
  /** Milliseconds since 1970. */
  end: number;
  extensions: readonly Buffer[];
}

function certify(subjectKey: KeyObject, content: Content): string {
  const algorithm = sequence(oid(OID.ecdsaWithSHA256));
  const issuerId = keyId(createPublicKey(content.issuerKey));
  const body = sequence(
    der(TAG.version, positive(Buffer.from([2]))),
    positive(content.serial),
    algorithm,
    commonName(content.issuer),
    sequence(time(content.now - BACKDATE_MS), time(content.end)),
    commonName(content.subject),
    subjectKey.export({ type: "spki", format: "der" }),
    der(
      TAG.extensions,
      sequence(
        extension(OID.subjectKeyId, der(TAG.octets, keyId(subjectKey))),
        extension(OID.authorityKeyId, sequence(der(TAG.keyId, issuerId))),
        ...content.extensions,
      ),
    ),
  );
  const signature = sign("sha256", body, content.issuerKey);
  return pem("CERTIFICATE", sequence(body, algorithm, der(TAG.bits, Buffer.from([0]), signature)));
}

function newKey(): { publicKey: KeyObject; privateKey: KeyObject; text: string } {
  const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  return { publicKey, privateKey, text: privateKey.export({ type: "pkcs8", format: "pem" }).toString() };
}

/** Inputs of a new certificate. */
interface Making {
  /** Milliseconds since 1970. */
  now: number;
  lifeMs: number;
  /** 16 random bytes: the serial number. */
  serial: Buffer;
}

/** Creates a certificate authority that may sign leaves only. */
export function makeAuthority(subject: string, { now, lifeMs, serial }: Making): Pair {
  const { publicKey, privateKey, text } = newKey();
  const isAuthority = sequence(der(TAG.boolean, Buffer.from([0xff])), der(TAG.integer, Buffer.from([0])));
  const extensions = [extension(OID.basicConstraints, isAuthority, true), keyUsage(5)];
  const content = { subject, issuer: subject, issuerKey: privateKey, serial, now, end: now + lifeMs, extensions };
  return { cert: certify(publicKey, content), key: text };
}

/** Creates a server certificate for DNS names and IP addresses. `authority`: its common name, key (PEM) and expiry. */
export function makeLeaf(
  authority: { subject: string; key: string; end: number },
  names: readonly string[],
  { now, lifeMs, serial }: Making,
): Pair {
  const { publicKey, text } = newKey();
  const content = {
    subject: "outrider-webhook",
    issuer: authority.subject,
    issuerKey: createPrivateKey(authority.key),
    serial,
    now,
    end: Math.min(now + lifeMs, authority.end),
    extensions: [
      extension(OID.basicConstraints, sequence(), true),
      keyUsage(0),
      extension(OID.extKeyUsage, sequence(oid(OID.serverAuth))),
      extension(OID.subjectAltName, sequence(...names.map(altName))),
    ],
  };
  return { cert: certify(publicKey, content), key: text };
}
