import { createPrivateKey, randomBytes, X509Certificate } from "node:crypto";
import { isIP } from "node:net";
import ipaddr from "ipaddr.js";
import { BACKDATE_MS, makeAuthority, makeLeaf, type Pair } from "./x509.ts";

/**
 * The life of the webhook's certificates, pure: what is held, and what has to become of it at a moment. An authority
 * signs the leaf that every replica serves; the API server trusts the authorities of the bundle (`caBundle`).
 *
 * An authority is exchanged in three steps, so that no admission fails: the new one joins the bundle; once the API
 * server trusts it, it signs the next leaf; the old one leaves when no leaf of it can be valid any more, whichever
 * replica serves it.
 */

const HOUR_MS = 60 * 60 * 1000;
const DAY_MS = 24 * HOUR_MS;
/** A renewal can fail for 4.6 days (a long weekend, with nobody to mend the role) before admissions do. */
export const LEAF_LIFE_MS = 14 * DAY_MS;
/** Longer than any leaf by far: an authority is exchanged some 120 days before its end. */
export const AUTHORITY_LIFE_MS = 365 * DAY_MS;
/** Renewal begins after this part of a life (cert-manager's rule), and in any case this long before its end. */
const RENEW_PART = 2 / 3;
const RENEW_BEFORE_MS = DAY_MS;
/** Authorities in the bundle, at most: who deletes the Secret over and over must not make it grow. */
const MAX_AUTHORITIES = 4;

/** A certificate, read. */
export interface Certificate {
  pem: string;
  x509: X509Certificate;
  /** Milliseconds since 1970. */
  begin: number;
  end: number;
}

/** What the Secret holds. */
export interface Held {
  /** Those that the API server shall trust, newest first: the first one signs. */
  authorities: readonly [Certificate, ...Certificate[]];
  /** Key of the first authority. Keys of older ones are gone. */
  authorityKey: string;
  leaf: Certificate;
  leafKey: string;
}

/** The data of the Secret, as text. `tls.*` and `ca.crt` are what kubernetes.io/tls Secrets call them. */
export const KEY = { leaf: "tls.crt", leafKey: "tls.key", bundle: "ca.crt", authorityKey: "ca.key" } as const;
export type SecretTexts = Partial<Record<(typeof KEY)[keyof typeof KEY], string>>;

const PEM = /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----\n?/g;

/** @throws Error when it is no certificate */
export function readCertificate(pem: string): Certificate {
  const x509 = new X509Certificate(pem);
  return { pem, x509, begin: x509.validFromDate.getTime(), end: x509.validToDate.getTime() };
}

/** Whether a key (PEM) is that of a certificate. @throws Error when it is no key */
export function fits(certificate: Certificate, key: string): boolean {
  return certificate.x509.checkPrivateKey(createPrivateKey(key));
}

/** Which of the authorities signed a leaf. */
function issuerOf(leaf: Certificate, authorities: readonly Certificate[]): Certificate | undefined {
  return authorities.find(({ x509 }) => leaf.x509.checkIssued(x509) && leaf.x509.verify(x509.publicKey));
}

/** The names that a leaf is for. */
export function namesOf({ x509 }: Certificate): string[] {
  const entries = (x509.subjectAltName ?? "").split(", ");
  return entries.map((entry) => entry.replace(/^(DNS|IP Address):/, "")).map(canonical);
}

/** OpenSSL writes IPv6 addresses long and in capitals. */
function canonical(name: string): string {
  return isIP(name) === 0 ? name : ipaddr.parse(name).toString();
}

/** Reads the data of the Secret; a text says what is wrong with it. */
export function readHeld(data: SecretTexts): Held | string {
  for (const key of Object.values(KEY)) if (data[key] === undefined) return `has no ${key}`;
  try {
    const authorities = (data[KEY.bundle]!.match(PEM) ?? []).map(readCertificate);
    const [first, ...rest] = authorities;
    if (first === undefined) return `${KEY.bundle} has no certificate`;
    if (authorities.some(({ x509 }) => !x509.ca)) return `${KEY.bundle} has a certificate that is no authority`;
    if (!fits(first, data[KEY.authorityKey]!)) return `${KEY.authorityKey} is not the key of ${KEY.bundle}`;
    const leaf = readCertificate(data[KEY.leaf]!);
    if (!fits(leaf, data[KEY.leafKey]!)) return `${KEY.leafKey} is not the key of ${KEY.leaf}`;
    if (issuerOf(leaf, authorities) === undefined) return `${KEY.leaf} is not signed by any of ${KEY.bundle}`;
    return {
      authorities: [first, ...rest],
      authorityKey: data[KEY.authorityKey]!,
      leaf,
      leafKey: data[KEY.leafKey]!,
    };
  } catch (error) {
    return (error as Error).message;
  }
}

/** What the API server shall trust, as PEM. */
export function bundleOf({ authorities }: Held): string {
  return authorities.map(({ pem }) => pem).join("");
}

export function writeHeld(held: Held): Required<SecretTexts> {
  return {
    [KEY.leaf]: held.leaf.pem,
    [KEY.leafKey]: held.leafKey,
    [KEY.bundle]: bundleOf(held),
    [KEY.authorityKey]: held.authorityKey,
  };
}

/** When something has to be renewed, in milliseconds since 1970. */
export function dueAt({ begin, end }: Certificate): number {
  return Math.min(begin + (end - begin) * RENEW_PART, end - RENEW_BEFORE_MS);
}

/** One moment, as far as certificates go. */
export interface Moment {
  /** Milliseconds since 1970. */
  now: number;
  /** DNS names and addresses under which the API server calls. */
  names: readonly string[];
  /** Whether the API server trusts exactly the authorities of the Secret by now. */
  trusted: boolean;
}

function newAuthority(now: number): Pair {
  const serial = randomBytes(16);
  // Names that differ: some verifiers find an authority by its name alone.
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

/** Nothing is there, or nothing that is of use. */
function begin({ now, names }: Moment): Held {
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

function withNewAuthority(held: Held, now: number): Held {
  const { cert, key } = newAuthority(now);
  return { ...held, authorities: [readCertificate(cert), ...held.authorities], authorityKey: key };
}

function withNewLeaf(held: Held, names: readonly string[], now: number): Held {
  const { cert, key } = newLeaf(held.authorities[0], held.authorityKey, names, now);
  return { ...held, leaf: readCertificate(cert), leafKey: key };
}

/** What has to be written, and why; undefined: nothing. */
export type Step = { held: Held; why: string } | undefined;

/**
 * The next step. `before`: what this process saw last, for when the Secret is gone: whoever deletes it asks for new
 * certificates, and other replicas still serve the old ones.
 */
export function nextStep(held: Held | undefined, before: Held | undefined, moment: Moment): Step {
  const { now, names, trusted } = moment;
  if (held === undefined) {
    if (before === undefined || before.leaf.end <= now) return { held: begin(moment), why: "there are none" };
    const busy = isExchanging(before) || before.authorities.length >= MAX_AUTHORITIES;
    return { held: busy ? before : withNewAuthority(before, now), why: "the Secret was deleted" };
  }
  const [signer, ...older] = held.authorities;
  if (signer.end <= now) return { held: begin(moment), why: "the authority has ended" };
  if (isExchanging(held)) {
    const ended = held.leaf.end <= now;
    return trusted || ended ? { held: withNewLeaf(held, names, now), why: "the new authority is trusted" } : undefined;
  }
  if (dueAt(held.leaf) <= now) return { held: withNewLeaf(held, names, now), why: "the certificate ends soon" };
  const known = namesOf(held.leaf);
  if (names.some((name) => !known.includes(canonical(name)))) {
    // Together with those that are there: a replica of another version may need them.
    const all = [...new Set([...names, ...known])];
    return { held: withNewLeaf(held, all, now), why: "the certificate lacks a name" };
  }
  // Begun only while the way to the API server's trust is known to be open: a half exchange stops all renewals.
  if (dueAt(signer) <= now && trusted) return { held: withNewAuthority(held, now), why: "the authority ends soon" };
  if (older.length > 0 && now >= signer.begin + BACKDATE_MS + LEAF_LIFE_MS) {
    return { held: { ...held, authorities: [signer] }, why: "no certificate of the old authority is valid any more" };
  }
  return undefined;
}

/** Whether an authority joined that did not sign the leaf yet. */
export function isExchanging({ leaf, authorities }: Held): boolean {
  return issuerOf(leaf, authorities) !== authorities[0];
}
