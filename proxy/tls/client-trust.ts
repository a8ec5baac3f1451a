import { createHash } from "node:crypto";
import { type Certificate, type ClientCertificate, readCertificate } from "./client-certificate.ts";
import { type Crl, readCrls } from "./crl.ts";
import { readCertificates } from "./pem.ts";

/** A certificate that is accepted until a moment (milliseconds since the epoch). */
interface Accepted {
  readonly until: number;
}

/** Certificates whose acceptance is remembered: a signature costs more than a look-up. */
const MAX_REMEMBERED = 4096;
/** Limit of the issuers between a client certificate and a CA. */
const MAX_DEPTH = 8;

const day = (ms: number): string => `${new Date(ms).toISOString().slice(0, 19)}Z`;
const subjectOf = ({ x509 }: Certificate): string => x509.subject.replace(/\n/g, ", ");

/** Whether a CA's key signed a certificate. */
function issued(issuer: Certificate, certificate: Certificate): boolean {
  return issuer.x509.ca && issuer.subject.equals(certificate.issuer) && certificate.x509.verify(issuer.x509.publicKey);
}

/**
 * The key of a CA's list: a new CA may have the name of the old one, and lists of its own. A renewed certificate with the
 * same key has the same list.
 */
function crlKey({ subject, x509 }: Certificate): string {
  const spki = x509.publicKey.export({ type: "spki", format: "der" });
  return createHash("sha256").update(subject).update(spki).digest("base64");
}

const isRoot = ({ subject, issuer }: Certificate): boolean => subject.equals(issuer);

/**
 * The client CAs and their CRLs: decides whether a client certificate is valid now. OpenSSL checks certificates in the
 * handshake. This class checks them again for each request, and for open connections when files or the time change.
 * Every issuer must be one of the CAs: Node.js does not show the intermediate certificates that a client sent
 * (https://github.com/nodejs/node/issues/65579).
 */
export class ClientTrust {
  readonly #cas: readonly Certificate[];
  /** By {@link crlKey} of their CAs; null: revocation is not checked. */
  readonly #crls: ReadonlyMap<string, Crl> | null;
  readonly #accepted = new Map<string, Accepted>();
  /** The first moment at which an accepted certificate may no longer be valid. */
  #due = Number.POSITIVE_INFINITY;
  readonly warnings: readonly string[];

  constructor(cas: readonly Certificate[], crls: ReadonlyMap<string, Crl> | null, warnings: readonly string[]) {
    this.#cas = cas;
    this.#crls = crls;
    this.warnings = warnings;
  }

  /** The options of a TLS context. */
  get options(): { ca: string[]; crl?: string[] } {
    const ca = this.#cas.map(({ x509 }) => x509.toString());
    return this.#crls === null ? { ca } : { ca, crl: [...this.#crls.values()].map(({ pem }) => pem) };
  }

  /** When the first CRL expires (milliseconds since the epoch); null without a CRL. */
  get nextUpdate(): number | null {
    if (this.#crls === null || this.#crls.size === 0) return null;
    return Math.min(...[...this.#crls.values()].map((crl) => crl.nextUpdate));
  }

  /** Why a client certificate is not valid now, as a sentence; null: it is valid. `now`: milliseconds since the epoch. */
  refuses({ leaf }: ClientCertificate, now: number): string | null {
    const known = this.#accepted.get(leaf.fingerprint);
    if (known !== undefined && now < known.until) return null;
    const found = this.#find(leaf, now, 0);
    if ("why" in found) return found.why;
    if (this.#accepted.size >= MAX_REMEMBERED) this.#accepted.clear();
    this.#accepted.set(leaf.fingerprint, found);
    this.#due = Math.min(this.#due, found.until);
    return null;
  }

  /** Whether an accepted certificate may have expired. A second call returns false. */
  due(now: number): boolean {
    if (now < this.#due) return false;
    this.#due = Number.POSITIVE_INFINITY;
    this.#accepted.clear();
    return true;
  }

  /** A chain of valid certificates from a certificate to a CA. `depth`: issuers so far. */
  #find(one: Certificate, now: number, depth: number): Accepted | { why: string } {
    const what = depth === 0 ? "the client certificate" : "the CA of the client certificate";
    if (now > one.validTo) return { why: `${what} expired on ${day(one.validTo)}` };
    if (now < one.validFrom) return { why: `${what} is not valid before ${day(one.validFrom)}` };
    if (depth > 0 && isRoot(one)) return { until: one.validTo };
    let why = "the CA of the client certificate is not in --tls-client-ca; intermediate CAs must be there as well";
    if (depth === MAX_DEPTH) return { why };
    for (const issuer of this.#cas.filter((ca) => issued(ca, one))) {
      const link = this.#link(one, issuer, what, now);
      const above = "why" in link ? link : this.#find(issuer, now, depth + 1);
      if ("why" in link || "why" in above) why = (above as { why: string }).why;
      else return { until: Math.min(one.validTo, link.until, above.until) };
    }
    return { why };
  }

  /** Whether an issuer has revoked a certificate. */
  #link(one: Certificate, issuer: Certificate, what: string, now: number): Accepted | { why: string } {
    if (this.#crls === null) return { until: Number.POSITIVE_INFINITY };
    const crl = this.#crls.get(crlKey(issuer));
    if (crl === undefined) return { why: `the CA ${subjectOf(issuer)} has no CRL` };
    if (now > crl.nextUpdate) return { why: `the CRL of the CA expired on ${day(crl.nextUpdate)}` };
    return crl.serials.has(one.serial) ? { why: `${what} is revoked` } : { until: crl.nextUpdate };
  }

  /** Whether a CRL of this CA is in force. */
  hasCrl(ca: Certificate): boolean {
    return this.#crls?.has(crlKey(ca)) ?? false;
  }

  /** The CRL in force of the same CA that is newer than this one. `key`: {@link crlKey} of the CA. */
  newerThan(key: string, crl: Crl): Crl | null {
    const current = this.#crls?.get(key);
    return current !== undefined && current.thisUpdate > crl.thisUpdate ? current : null;
  }
}

/**
 * The CAs of a file. `mayBeEmpty`: while a proxy runs, an empty file removes the last CA. @throws Error
 */
export function readCas(bytes: Buffer, now: number, mayBeEmpty = false): { cas: Certificate[]; warnings: string[] } {
  if (mayBeEmpty && bytes.toString("latin1").trim() === "") {
    return { cas: [], warnings: ["the file is empty, so all client certificates are refused"] };
  }
  const cas = readCertificates(bytes, readCertificate);
  const other = cas.find(({ x509 }) => !x509.ca);
  if (other !== undefined) throw new Error(`${subjectOf(other)} is not a CA certificate (basicConstraints); remove it`);
  const above = cas.find((ca) => !isRoot(ca) && !cas.some((issuer) => issued(issuer, ca)));
  if (above !== undefined) {
    const issuer = above.x509.issuer.replace(/\n/g, ", ");
    throw new Error(`${subjectOf(above)} is an intermediate CA; add the certificate of its issuer, ${issuer}`);
  }
  const expired = cas.filter(({ validTo }) => validTo < now);
  const warnings = expired.map((ca) => `${subjectOf(ca)} expired on ${day(ca.validTo)}; remove it`);
  if (expired.length === cas.length)
    throw new Error(`${subjectOf(cas[0]!)} expired on ${day(cas[0]!.validTo)}; replace it`);
  return { cas, warnings };
}

/**
 * Adds the lists of a file to a map by {@link crlKey}. `before`: the trust in force. Returns whether the file has a list of
 * none of the CAs. @throws Error
 */
export function addCrls(
  crls: Map<string, Crl>,
  bytes: Buffer,
  context: { cas: readonly Certificate[]; before: ClientTrust | null; now: number },
): boolean {
  const { cas, before, now } = context;
  let foreign = false;
  for (const crl of readCrls(bytes)) {
    const named = cas.filter(({ subject }) => subject.equals(crl.issuer));
    if (named.length === 0) {
      foreign = true;
      continue;
    }
    const name = subjectOf(named[0]!);
    const issuer = named.find(({ x509 }) => crl.signedBy(x509));
    if (issuer === undefined) {
      throw new Error(`the CRL names ${name}, but the key of this CA did not sign it; download it again`);
    }
    if (crl.nextUpdate < now) throw new Error(`the CRL of ${name} expired on ${day(crl.nextUpdate)}; replace it`);
    if (crl.thisUpdate > now)
      throw new Error(`the CRL of ${name} is not valid before ${day(crl.thisUpdate)}; check the clock`);
    const key = crlKey(issuer);
    const newer = before?.newerThan(key, crl) ?? null;
    if (newer !== null) {
      const [is, was] = [day(crl.thisUpdate), day(newer.thisUpdate)];
      throw new Error(`the CRL of ${name} was issued on ${is}, before the one in force (${was}); replace it`);
    }
    const other = crls.get(key);
    if (other === undefined || other.thisUpdate < crl.thisUpdate) crls.set(key, crl);
  }
  return foreign;
}

/** Whether a CA has no CRL, although it needs one at the start, or had one before. */
export function lacksCrl(
  cas: readonly Certificate[],
  crls: ReadonlyMap<string, Crl>,
  before: ClientTrust | null,
): boolean {
  return cas.some((ca) => !crls.has(crlKey(ca)) && (before === null || before.hasCrl(ca)));
}

/** Warnings about CAs whose certificates are all refused. */
export function withoutCrl(cas: readonly Certificate[], crls: ReadonlyMap<string, Crl>): string[] {
  return cas
    .filter((ca) => !crls.has(crlKey(ca)))
    .map((ca) => `${subjectOf(ca)} has no CRL, so its certificates are refused; add its CRL with --tls-crl`);
}
