import type { Failure } from "../outcome/refusals.ts";
import type { Authentication } from "../policy/clients.ts";
import type { ClientCertificate } from "../tls/client-certificate.ts";
import type { ClientTrust } from "../tls/client-trust.ts";
import { admitsMissing, readsPasswords } from "./authentication.ts";
import { type Credentials, guesses, type Known, shownName } from "./credentials.ts";

/** The result of identifying the client of a request, with its proofs. */
export type Identity =
  /** A name with a proof of its own. `name`: UTF-8, one character an octet. */
  | { readonly kind: "own"; readonly name: string; readonly known?: Known; readonly certificate?: ClientCertificate }
  /** The shared password, which proves no name. */
  | { readonly kind: "shared"; readonly known: Known }
  /** No proof, and none is required. */
  | { readonly kind: "missing" };

/** The proof that a request carries, and that its connection has. */
interface Proofs {
  /** The value of Proxy-Authorization. */
  authorization: string | undefined;
  certificate: ClientCertificate | null;
  /** The address of the client. */
  from: string;
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
  const { authorization, certificate, from } = proofs;
  const passwords = readsPasswords(authentication.mode);
  let known: Known | null = null;
  if (passwords && authorization !== undefined) {
    known = credentials.check(authorization);
    if (known === null) {
      const reason = "wrong proxy credentials; set them in the proxy URL";
      return { code: "auth", reason, delayMs: guesses.wrong(from, performance.now()) };
    }
  }
  if (certificate !== null) return ofCertificate(certificate, known, trust);
  if (known !== null) {
    return known.countedAs === null ? { kind: "shared", known } : { kind: "own", name: known.countedAs, known };
  }
  if (admitsMissing(authentication)) return { kind: "missing" };
  if (passwords) return { code: "auth", reason: "no proxy credentials; set them in the proxy URL" };
  return { code: "client", reason: "no client certificate; use an https:// proxy URL and set one in the client" };
}

function ofCertificate(
  certificate: ClientCertificate,
  known: Known | null,
  trust: ClientTrust | null,
): Identity | Failure {
  const refused = trust?.refuses(certificate, Date.now()) ?? null;
  if (refused !== null) return { code: "client", reason: refused };
  const { name } = certificate;
  if (name === null) return { code: "client", reason: certificate.why! };
  if (known === null) return { kind: "own", name, certificate };
  if (known.countedAs !== null && known.countedAs !== name) {
    return { code: "client", reason: "the credentials and the client certificate have different names" };
  }
  return { kind: "own", name, known, certificate };
}

/** Why an identity has lost a proof, after a reload or by the time; null: all of them are still valid. */
export function stillValid(
  identity: Identity,
  credentials: Credentials,
  trust: ClientTrust | null,
  authentication: Authentication,
): Failure | null {
  if (identity.kind === "missing" && admitsMissing(authentication)) return null;
  const known = identity.kind === "missing" ? undefined : identity.known;
  const certificate = identity.kind === "own" ? identity.certificate : undefined;
  const proven = known === undefined ? certificate !== undefined : credentials.has(known);
  if (!proven) return { code: "auth", reason: "these proxy credentials are no longer valid" };
  if (certificate === undefined || trust === null) return null;
  const reason = trust.refuses(certificate, Date.now());
  return reason === null ? null : { code: "client", reason };
}
