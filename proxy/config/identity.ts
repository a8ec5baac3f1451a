import { isUtf8 } from "node:buffer";
import type { Proof } from "../outcome/access-record.ts";
import type { Failure } from "../outcome/refusals.ts";
import { type Authentication, readsCertificates, readsPasswords } from "../policy/clients.ts";
import { type PolicySet, viewOf } from "../policy/engine.ts";
import type { ClientCertificate } from "../tls/client-certificate.ts";
import type { ClientTrust } from "../tls/client-trust.ts";
import { admitsMissing } from "./authentication.ts";
import { type Credentials, guesses, type Known, shownName } from "./credentials.ts";

/** The result of identifying the client of a request, with its proofs. */
export type Identity =
  /** A name with a proof of its own. `name`: UTF-8, one character per octet. */
  | { readonly kind: "own"; readonly name: string; readonly known?: Known; readonly certificate?: ClientCertificate }
  /** The shared password, which proves no name. */
  | { readonly kind: "shared"; readonly known: Known }
  /** No proof, and none is required. */
  | { readonly kind: "missing" };

/** The identity of every request without a proof. */
export const MISSING: Identity = { kind: "missing" };

/** The part of an identity that comes with the connection. */
export interface Arrived {
  readonly certificate: ClientCertificate | null;
  /** The address of the client. */
  readonly from: string;
  /** It arrived on the port for clients outside of the network, where each request needs a proof. */
  readonly isExternal: boolean;
}

/** The proof that a request carries, and that its connection has. */
interface Proofs extends Arrived {
  /** The value of Proxy-Authorization. */
  authorization: string | undefined;
}

/** The name in records: visible ASCII; other octets are `%XX`. */
export function recordName(identity: Identity): string | undefined {
  if (identity.kind === "missing") return undefined;
  if (identity.kind === "shared") return identity.known.name;
  return shownName(identity.name, identity.name.length);
}

/**
 * The identity of the client of a request (docs/adr/0019-clients-with-rules-of-their-own.md). `trust`: the client CAs;
 * null: there are none.
 */
export function identify(
  proofs: Proofs,
  credentials: Credentials,
  trust: ClientTrust | null,
  authentication: Authentication,
): Identity | Failure {
  const { authorization, certificate, from, isExternal } = proofs;
  const { mode } = authentication;
  let known: Known | null = null;
  if (readsPasswords(mode) && authorization !== undefined) {
    known = credentials.check(authorization);
    if (known === null) {
      const reason = "wrong proxy credentials; set them in the proxy URL";
      return { code: "auth", reason, delayMs: guesses.wrong(from, performance.now()) };
    }
  }
  if (certificate !== null && readsCertificates(mode)) return ofCertificate(certificate, known, trust);
  if (known !== null) {
    return known.countedAs === null ? { kind: "shared", known } : { kind: "own", name: known.countedAs, known };
  }
  return admitsMissing(authentication) && !isExternal ? MISSING : withoutProof(authentication);
}

/** The refusal of a certificate that is not valid now; null: it is valid. */
function refuseCertificate(certificate: ClientCertificate, trust: ClientTrust | null): Failure | null {
  const reason =
    trust === null ? "this proxy no longer accepts client certificates" : trust.refuses(certificate, Date.now());
  return reason === null ? null : { code: "client", reason };
}

function ofCertificate(
  certificate: ClientCertificate,
  known: Known | null,
  trust: ClientTrust | null,
): Identity | Failure {
  const refused = refuseCertificate(certificate, trust);
  if (refused !== null) return refused;
  const { name } = certificate;
  if (name === null) return { code: "client", reason: certificate.why! };
  if (known === null) return { kind: "own", name, certificate };
  if (known.countedAs !== null && known.countedAs !== name) {
    return { code: "client", reason: "the credentials and the client certificate have different names" };
  }
  return { kind: "own", name, known, certificate };
}

/**
 * Why an identity has lost a proof, after a reload or an expiry; null: all of them are still valid, and it needs no
 * others.
 */
export function stillValid(
  identity: Identity,
  credentials: Credentials,
  trust: ClientTrust | null,
  authentication: Authentication,
): Failure | null {
  if (identity.kind === "missing") return admitsMissing(authentication) ? null : withoutProof(authentication);
  const { known } = identity;
  if (known !== undefined && !(readsPasswords(authentication.mode) && credentials.has(known))) {
    return { code: "auth", reason: "these proxy credentials are no longer valid" };
  }
  if (identity.kind === "shared" || identity.certificate === undefined) return null;
  return refuseCertificate(identity.certificate, readsCertificates(authentication.mode) ? trust : null);
}

/** The refusal of a request without any proof. */
function withoutProof({ mode }: Authentication): Failure {
  if (readsPasswords(mode)) return { code: "auth", reason: "no proxy credentials; set them in the proxy URL" };
  return { code: "client", reason: "no client certificate; use an https:// proxy URL and set one in the client" };
}

/** The proof of an identity, as records show it. */
export function proofOf(identity: Identity): Proof {
  if (identity.kind === "shared") return "shared";
  if (identity.kind === "missing") return "none";
  if (identity.certificate === undefined) return "password";
  const isOwn = identity.known !== undefined && identity.known.countedAs !== null;
  return isOwn ? "both" : "certificate";
}

/** Whether two requests of one client connection come from the same user, by identity and user name as sent. */
export function isSameUser(one: Identity, other: Identity): boolean {
  if (one === other) return true;
  if (one.kind === "missing" || other.kind === "missing") return one.kind === other.kind;
  if (one.known?.user !== other.known?.user || one.kind !== other.kind) return false;
  return one.kind === "shared" || other.kind === "shared" || one.name === other.name;
}

/** A name as text; null: it is not UTF-8, so no entry has this name. A byte order mark is a part of the name. */
export function textOf(name: string): string | null {
  const bytes = Buffer.from(name, "latin1");
  return isUtf8(bytes) ? bytes.toString() : null;
}

/** The view that decides the requests of an identity: the policy itself without clients. Null: refuse the client. */
export function viewFor(policy: PolicySet, identity: Identity, { sharedClient }: Authentication): PolicySet | null {
  if (policy.views === null) return policy;
  if (identity.kind === "own") return viewOf(policy, { kind: "own", name: textOf(identity.name) });
  return viewOf(policy, identity.kind === "shared" ? { kind: "own", name: sharedClient } : identity);
}
