import { X509Certificate } from "node:crypto";
import { type Element, element, elements, expect, oidOf, serialOf, TAG } from "./der.ts";

/** The part of a certificate that names its client. */
export const CLIENT_NAMES = ["san-uri", "san-dns", "cn", "ou"] as const;
/** One of these parts. */
export type ClientName = (typeof CLIENT_NAMES)[number];

/** One certificate, with the fields that OpenSSL does not show unambiguously. */
export interface Certificate {
  readonly x509: X509Certificate;
  /** SHA-256 of its DER. */
  readonly fingerprint: string;
  /** DER of the names. */
  readonly issuer: Buffer;
  readonly subject: Buffer;
  readonly serial: string;
  /** Milliseconds since the epoch. */
  readonly validFrom: number;
  readonly validTo: number;
}

/** The certificate that a client presented. Its signature was verified in the handshake. */
export interface ClientCertificate {
  /** The name of the client in UTF-8, one character per octet; null: the certificate has not exactly one. */
  readonly name: string | null;
  /** Why it has no name, as a sentence; null: it has one. */
  readonly why: string | null;
  readonly leaf: Certificate;
}

/** Octets of a name. A SPIFFE ID may have as many. */
const MAX_NAME = 2048;
const OID = { cn: "2.5.4.3", ou: "2.5.4.11", subjectAltName: "2.5.29.17" };
/** Tags of GeneralName (RFC 5280 §4.2.1.6). */
const GENERAL_NAMES = { "san-dns": 0x82, "san-uri": 0x86 };
/** [3] EXPLICIT, the extensions of a certificate. */
const EXTENSIONS = 0xa3;
const LABELS: Readonly<Record<ClientName, string>> = {
  "san-uri": "URI in its subject alternative names",
  "san-dns": "DNS name in its subject alternative names",
  cn: "CN in its subject",
  ou: "OU in its subject",
};

interface Fields {
  serial: string;
  issuer: Buffer;
  subject: Element;
  extensions: Element | undefined;
}

/** @throws Error */
function fieldsOf(der: Buffer): Fields {
  const [signed] = elements(element(der, TAG.sequence).content);
  const fields = elements(expect(signed, TAG.sequence).content);
  // [0] EXPLICIT, the version; absent in version 1.
  if (fields[0]?.tag === 0xa0) fields.shift();
  const [serial, , issuer, , subject] = fields;
  return {
    serial: serialOf(expect(serial, TAG.integer)),
    issuer: expect(issuer, TAG.sequence).whole,
    subject: expect(subject, TAG.sequence),
    extensions: fields.find((field) => field.tag === EXTENSIONS),
  };
}

/** Reads a certificate. @throws Error */
export function readCertificate(der: Buffer): Certificate {
  const x509 = new X509Certificate(der);
  const { serial, issuer, subject } = fieldsOf(der);
  return {
    x509,
    fingerprint: x509.fingerprint256,
    issuer,
    subject: subject.whole,
    serial,
    validFrom: x509.validFromDate.getTime(),
    validTo: x509.validToDate.getTime(),
  };
}

/** The values of an attribute of a subject. */
function attributes(subject: Element, oid: string): Element[] {
  return elements(subject.content)
    .flatMap((set) => elements(set.content))
    .map((pair) => elements(pair.content))
    .filter(([id]) => oidOf(expect(id, TAG.oid)) === oid)
    .map(([, value]) => value!);
}

function alternativeNames(extensions: Element | undefined, tag: number): Element[] {
  if (extensions === undefined) return [];
  const list = elements(expect(elements(extensions.content)[0], TAG.sequence).content);
  const found = list
    .map((extension) => elements(extension.content))
    .filter(([id]) => oidOf(expect(id, TAG.oid)) === OID.subjectAltName);
  return found.flatMap((fields) => {
    const names = element(expect(fields.at(-1), TAG.octetString).content, TAG.sequence);
    return elements(names.content).filter((name) => name.tag === tag);
  });
}

/** String types whose octets are UTF-8. A BMPString of other characters could have the octets of a name. */
const TEXT_TAGS: readonly number[] = [
  TAG.utf8String,
  TAG.printableString,
  TAG.ia5String,
  ...Object.values(GENERAL_NAMES),
];

function nameOf(der: Buffer, kind: ClientName): Pick<ClientCertificate, "name" | "why"> {
  const { subject, extensions } = fieldsOf(der);
  const values =
    kind === "cn" || kind === "ou" ? attributes(subject, OID[kind]) : alternativeNames(extensions, GENERAL_NAMES[kind]);
  const what = LABELS[kind];
  if (values.length === 0) return { name: null, why: `the client certificate has no ${what}` };
  if (values.length > 1) return { name: null, why: `the client certificate has more than one ${what}` };
  const { tag, content } = values[0]!;
  if (content.length === 0) return { name: null, why: `the client certificate has an empty ${what}` };
  if (content.length > MAX_NAME) {
    return { name: null, why: `the client certificate has more than ${MAX_NAME} octets as ${what}` };
  }
  if (!TEXT_TAGS.includes(tag)) return { name: null, why: `the client certificate has no UTF-8 or ASCII ${what}` };
  return { name: content.toString("latin1"), why: null };
}

/** Reads the certificate that a client presented. @throws Error if it is malformed */
export function readClientCertificate(der: Buffer, kind: ClientName): ClientCertificate {
  return { ...nameOf(der, kind), leaf: readCertificate(der) };
}
