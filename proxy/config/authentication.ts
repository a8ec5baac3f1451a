import { type Authentication, DEFAULT_CLIENT } from "../policy/clients.ts";
import type { PolicySource } from "../policy/policy-file.ts";
import type { Config } from "./config.ts";

type Mode = Authentication["mode"];

/** The proofs that a process can read. Its start options fix them. */
export interface Proofs {
  password: boolean;
  certificate: boolean;
}

export const readsPasswords = (mode: Mode): boolean => mode === "Basic" || mode === "BasicOrTLS";

export const readsCertificates = (mode: Mode): boolean => mode === "TLS" || mode === "BasicOrTLS";

/** Whether requests without any proof are admitted. */
export const admitsMissing = ({ mode, allowMissing }: Authentication): boolean => mode === "None" || allowMissing;

/** No client is asked for a proof. */
export const OPEN: Authentication = { mode: "None", allowMissing: false, sharedClient: DEFAULT_CLIENT };

/** `password`: PROXY_PASSWORD. */
export function proofsOf(config: Config, password: string | undefined): Proofs {
  return {
    password: password !== undefined || config.passwordDir !== undefined,
    certificate: config.tls?.clientCa !== undefined,
  };
}

/** The mode that reads exactly these proofs. */
function modeOf({ password, certificate }: Proofs): Mode {
  if (password) return certificate ? "BasicOrTLS" : "Basic";
  return certificate ? "TLS" : "None";
}

/** How clients authenticate: the policy says it, otherwise the start options. */
export function effective({ document, sharedClient }: PolicySource, proofs: Proofs): Authentication {
  return document.authentication ?? { mode: modeOf(proofs), allowMissing: false, sharedClient };
}
