import { UsageError } from "../cli/usage-error.ts";
import { type Authentication, DEFAULT_CLIENT, readsCertificates, readsPasswords } from "../policy/clients.ts";
import type { PolicySource } from "../policy/policy-file.ts";
import type { Config } from "./config.ts";

type Mode = Authentication["mode"];

/** The proofs that a process can read. Its start options fix them. */
export interface Proofs {
  password: boolean;
  certificate: boolean;
}

/** Whether requests without any proof are admitted. */
export const admitsMissing = ({ mode, allowMissing }: Authentication): boolean => mode === "None" || allowMissing;

/** Requires no proof from clients. */
export const OPEN: Authentication = { mode: "None", allowMissing: false, sharedClient: DEFAULT_CLIENT };

/** `password`: PROXY_PASSWORD. */
export function proofsOf(config: Config, password: string | undefined): Proofs {
  return {
    password: password !== undefined || config.passwordDir !== undefined,
    certificate: config.clientCertificates,
  };
}

/** The mode that reads exactly these proofs. */
function modeOf({ password, certificate }: Proofs): Mode {
  if (password) return certificate ? "BasicOrTLS" : "Basic";
  return certificate ? "TLS" : "None";
}

/** How clients authenticate, by the policy, otherwise by the start options. */
export function effective(source: PolicySource, proofs: Proofs, config: Config): Authentication {
  const { document, sharedClient } = source;
  return document.authentication ?? { mode: modeOf(proofs), allowMissing: config.allowMissingClient, sharedClient };
}

/** The mode that a policy names; null: it leaves it to the start options. */
function namedMode({ document, needs }: PolicySource): Mode | null {
  if (document.authentication !== undefined) return document.authentication.mode;
  // A manifest of version 1 has its mode here only.
  const mode = modeOf(needs);
  return mode === "None" ? null : mode;
}

/** The problem of a policy for a process with these proofs; null: its mode reads exactly them, or it names none. */
export function proofProblem(source: PolicySource, proofs: Proofs): string | null {
  const mode = namedMode(source);
  const right = modeOf(proofs);
  if (mode === null || mode === right) return null;
  const problems: string[] = [];
  if (readsPasswords(mode) && !proofs.password) problems.push("needs a password: set PROXY_PASSWORD or --password-dir");
  if (readsCertificates(mode) && !proofs.certificate) problems.push("needs client certificates: set --tls-client-ca");
  const ignores = (what: string, options: string) =>
    problems.push(`ignores the ${what} of this proxy: write ${right}, or remove ${options}`);
  if (proofs.password && !readsPasswords(mode)) ignores("passwords", "PROXY_PASSWORD and --password-dir");
  if (proofs.certificate && !readsCertificates(mode)) ignores("client certificates", "--tls-client-ca");
  const path = source.kind === "manifest" ? "spec.authentication.mode" : "authentication.mode";
  return `${path}: ${problems.map((problem) => `${mode} ${problem}`).join("; ")}`;
}

/**
 * Checks that the mode of a policy reads exactly the proofs of a process. Otherwise one edit of the policy could disable
 * its passwords. @throws UsageError
 */
export function requireProofs(source: PolicySource, proofs: Proofs, config: Config): void {
  const problem = proofProblem(source, proofs);
  if (problem !== null) throw new UsageError(`--policy ${config.policy}: ${problem}`);
}
