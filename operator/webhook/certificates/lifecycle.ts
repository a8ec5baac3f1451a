import { createPrivateKey, randomBytes, X509Certificate } from "node:crypto";
import { isIP } from "node:net";
import ipaddr from "ipaddr.js";
import { BACKDATE_MS, makeAuthority, makeLeaf, type Pair } from "./x509.ts";

/**
 * Lifecycle of the webhook's certificates: the next step for the certificates that exist. Pure. A certificate authority
 * signs the leaf that every replica serves. The API server trusts the authorities of the bundle (`caBundle`).
 *
 * An authority is replaced in three steps, so that no admission fails. First the new authority is added to the bundle.
 * Once the API server trusts it, it signs the next leaf. The old authority is removed when none of its leaves can still
 * be valid.
 */

const HOUR_MS = 60 * 60 * 1000;
const DAY_MS = 24 * HOUR_MS;
/** Renewals can fail for 4.6 days, such as a long weekend with a broken role, before admissions fail. */
export const LEAF_LIFE_MS = 14 * DAY_MS;
/** Much longer than a leaf. An authority is replaced about 120 days before its end. */
export const AUTHORITY_LIFE_MS = 365 * DAY_MS;
/** Renewal begins after this part of the validity (as in cert-manager), and at the latest this long before its end. */
const RENEW_PART = 2 / 3;
const RENEW_BEFORE_MS = DAY_MS;
/** Limit of authorities in the bundle, which would otherwise grow each time a user deletes the Secret. */
export const MAX_AUTHORITIES = 4;

/** A parsed certificate. */
export interface Certificate {
  pem: string;
  x509: X509Certificate;
  /** Milliseconds since 1970. */
  begin: number;
  end: number;
}

/** Certificates of the Secret. */
export interface HeldCertificates {
  /** Authorities that the API server should trust, newest first. The first one signs. */
  authorities: readonly [Certificate, ...Certificate[]];
  /** Key of the first authority. Keys of older ones are not kept. */
  authorityKey: string;
  leaf: Certificate;
  leafKey: string;
}

/** Keys of the Secret. `tls.*` and `ca.crt` are those of kubernetes.io/tls Secrets. */
export const SECRET_KEY = { leaf: "tls.crt", leafKey: "tls.key", bundle: "ca.crt", authorityKey: "ca.key" } as const;
/** Texts of the Secret of the certificates, by key. A key may be missing. */
export type SecretTexts = Partial<Record<(typeof SECRET_KEY)[keyof typeof SECRET_KEY], string>>;

const PEM = /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----\n?/g;

/** @throws Error if it is no certificate */
export function readCertificate(pem: string): Certificate {
  const x509 = new X509Certificate(pem);
  return { pem, x509, begin: x509.validFromDate.getTime(), end: x509.validToDate.getTime() };
}

/** Certificates of a PEM file; those that cannot be parsed are left out. */
export function readCertificates(pem: string): Certificate[] {
  return (pem.match(PEM) ?? []).flatMap((one) => {
    try {
      return [readCertificate(one)];
    } catch {
      return [];
    }
  });
}

/** Whether a key (PEM) belongs to a certificate. @throws Error if it is no key */
export function fits(certificate: Certificate, key: string): boolean {
  return certificate.x509.checkPrivateKey(createPrivateKey(key));
}

/** The authority that signed a leaf. */
function issuerOf(leaf: Certificate, authorities: readonly Certificate[]): Certificate | undefined {
  return authorities.find(({ x509 }) => leaf.x509.checkIssued(x509) && leaf.x509.verify(x509.publicKey));
}

/**
 * Whether an API server that trusts these authorities accepts a leaf with its chain. Like Go, it also trusts an authority
 * that is not self-signed, and a leaf that is itself in the list.
 */
export function isSignedBy([leaf, ...chain]: readonly Certificate[], authorities: readonly Certificate[]): boolean {
  if (leaf === undefined) return false;
  if (issuerOf(leaf, authorities) !== undefined) return true;
  if (authorities.some(({ x509 }) => x509.raw.equals(leaf.x509.raw))) return true;
  const issuer = issuerOf(leaf, chain);
  return issuer !== undefined && isSignedBy([issuer, ...chain.filter((one) => one !== issuer)], authorities);
}

/** DNS names and addresses of a leaf. */
export function leafNames({ x509 }: Certificate): string[] {
  const entries = (x509.subjectAltName ?? "").split(", ");
  return entries.map((entry) => entry.replace(/^(DNS|IP Address):/, "")).map(canonicalName);
}

/** OpenSSL writes IPv6 addresses long and in capitals. */
function canonicalName(name: string): string {
  return isIP(name) === 0 ? name : ipaddr.parse(name).toString();
}

/** Parses the data of the Secret. */
export function readHeld(data: SecretTexts): HeldCertificates | { error: string } {
  for (const key of Object.values(SECRET_KEY)) if (data[key] === undefined) return { error: `has no ${key}` };
  const { bundle, authorityKey, leaf: leafFile, leafKey } = SECRET_KEY;
  try {
    const authorities = (data[bundle]!.match(PEM) ?? []).map(readCertificate);
    const [first, ...rest] = authorities;
    if (first === undefined) return { error: `${bundle} has no certificate` };
    if (authorities.some(({ x509 }) => !x509.ca))
      return { error: `${bundle} contains a certificate that is not an authority` };
    if (!fits(first, data[authorityKey]!)) return { error: `${authorityKey} is not the key of ${bundle}` };
    const leaf = readCertificate(data[leafFile]!);
    if (!fits(leaf, data[leafKey]!)) return { error: `${leafKey} is not the key of ${leafFile}` };
    if (issuerOf(leaf, authorities) === undefined) return { error: `${leafFile} is not signed by any of ${bundle}` };
    return { authorities: [first, ...rest], authorityKey: data[authorityKey]!, leaf, leafKey: data[leafKey]! };
  } catch (error) {
    return { error: (error as Error).message };
  }
}

/** Certificates that the API server should trust, as PEM. */
export function bundleOf({ authorities }: { authorities: readonly Certificate[] }): string {
  return authorities.map(({ pem }) => (pem.endsWith("\n") ? pem : `${pem}\n`)).join("");
}

/** Certificates and keys as the Secret has them, the reverse of {@link readHeld}. */
export function writeHeld(held: HeldCertificates): Required<SecretTexts> {
  return {
    [SECRET_KEY.leaf]: held.leaf.pem,
    [SECRET_KEY.leafKey]: held.leafKey,
    [SECRET_KEY.bundle]: bundleOf(held),
    [SECRET_KEY.authorityKey]: held.authorityKey,
  };
}

/** Time of renewal, in milliseconds since 1970. */
export function dueAt({ begin, end }: Certificate): number {
  return Math.min(begin + (end - begin) * RENEW_PART, end - RENEW_BEFORE_MS);
}

/** Inputs of a step besides the certificates. */
export interface Moment {
  /** Milliseconds since 1970. */
  now: number;
  /** DNS names and addresses under which the API server calls. */
  names: readonly string[];
  /** Whether the API server trusts exactly the authorities of the Secret. */
  trusted: boolean;
}

function newAuthority(now: number): Pair {
  const serial = randomBytes(16);
  // Different names, since some verifiers find an authority by its name alone.
  return makeAuthority(`outrider-webhook-ca-${serial.toString("hex").slice(0, 8)}`, {
    now,
    lifeMs: AUTHORITY_LIFE_MS,
    serial,
  });
}

function newLeaf(authority: Certificate, key: string, names: readonly string[], now: number): Pair {
  const subject = authority.x509.subject.replace(/^CN=/, "");
  const making = { now, lifeMs: LEAF_LIFE_MS, serial: randomBytes(16) };
  return makeLeaf({ subject, key, end: authority.end }, names, making);
}

/** Creates the first authority and leaf. */
function begin({ now, names }: Moment): HeldCertificates {
  const authority = newAuthority(now);
  const read = readCertificate(authority.cert);
  const leaf = newLeaf(read, authority.key, names, now);
  return {
    authorities: [read],
    authorityKey: authority.key,
    leaf: readCertificate(leaf.cert),
    leafKey: leaf.key,
  };
}

function withNewAuthority(held: HeldCertificates, now: number): HeldCertificates {
  const { cert, key } = newAuthority(now);
  return { ...held, authorities: [readCertificate(cert), ...held.authorities], authorityKey: key };
}

function withNewLeaf(held: HeldCertificates, names: readonly string[], now: number): HeldCertificates {
  const { cert, key } = newLeaf(held.authorities[0], held.authorityKey, names, now);
  return { ...held, leaf: readCertificate(cert), leafKey: key };
}

/** Certificates to write, and why; undefined if none are due. */
type Step = { held: HeldCertificates; why: string } | undefined;

/**
 * The next step. `before`: certificates that this process read last. They are needed if a user deletes the Secret to
 * get new certificates, since other replicas still serve the old ones.
 */
export function nextStep(
  held: HeldCertificates | undefined,
  before: HeldCertificates | undefined,
  moment: Moment,
): Step {
  const { now, names, trusted } = moment;
  if (held === undefined) {
    if (before === undefined || before.leaf.end <= now) return { held: begin(moment), why: "there are none" };
    const busy = isReplacing(before) || before.authorities.length >= MAX_AUTHORITIES;
    return { held: busy ? before : withNewAuthority(before, now), why: "the Secret was deleted" };
  }
  const [signer, ...older] = held.authorities;
  if (signer.end <= now) return { held: begin(moment), why: "the authority has expired" };
  if (isReplacing(held)) {
    const ended = held.leaf.end <= now;
    return trusted || ended ? { held: withNewLeaf(held, names, now), why: "the new authority is trusted" } : undefined;
  }
  if (dueAt(held.leaf) <= now) return { held: withNewLeaf(held, names, now), why: "the certificate expires soon" };
  const known = leafNames(held.leaf);
  if (names.some((name) => !known.includes(canonicalName(name)))) {
    // Keep the existing names, which a replica of another version may need.
    const all = [...new Set([...names, ...known])];
    return { held: withNewLeaf(held, all, now), why: "the certificate lacks a name" };
  }
  // Only while caBundle is known to be writable: an unfinished replacement stops all renewals.
  if (dueAt(signer) <= now && trusted) return { held: withNewAuthority(held, now), why: "the authority expires soon" };
  if (older.length > 0 && now >= signer.begin + BACKDATE_MS + LEAF_LIFE_MS) {
    return { held: { ...held, authorities: [signer] }, why: "no certificate of the old authority can still be valid" };
  }
  return undefined;
}

/** Whether the newest authority has not signed the leaf yet. */
export function isReplacing({ leaf, authorities }: HeldCertificates): boolean {
  return issuerOf(leaf, authorities) !== authorities[0];
}
