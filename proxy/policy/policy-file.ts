import { type AclChoice, looksLikeAcl, readParsedAcl, WITHOUT_PROOFS } from "./acl.ts";
import { clientWarnings, identityWarnings } from "./client-warnings.ts";
import {
  AUTHENTICATION_MODES,
  type Authentication,
  DEFAULT_CLIENT,
  readsCertificates,
  readsPasswords,
} from "./clients.ts";
import { type PolicyDocument, readDocument, readFields } from "./document.ts";
import { parseText } from "./parse.ts";
import { boundedTexts, PolicyError, Reader, shown } from "./rules.ts";
import { smokescreenKeys } from "./smokescreen.ts";
import { upstreamWarnings } from "./upstream-proxy.ts";

/** A parsed policy file. */
export interface PolicySource {
  kind: "document" | "manifest" | "acl";
  document: PolicyDocument;
  /** The service of an acl.yaml, or `default`, that applies to every client. */
  service?: string | undefined;
  /** Problems of the file that a user should check. */
  warnings: string[];
  /** Proofs that the file requires of clients: a proxy that cannot read them must not start. */
  needs: { password: boolean; certificate: boolean };
  /** The client of requests with the shared password. */
  sharedClient: string;
}

/** Limit of the warnings of one file. Each is a log line, and a list of overlapping entries has thousands. */
const MAX_WARNINGS = 100;

const SPEC_KEYS = ["mode", "defaultAction", "ports", "allow", "deny", "staticIPs", "verification", "proxy"];
const SPEC_KEYS_2 = ["hostSets", "clients", "upstreamProxy"];
/** Keys of a manifest that only the operator uses. */
const OPERATOR_KEYS = ["preset", "injection", "nat", "networkPolicy", "authentication"];
const OPERATOR_UPSTREAM_KEYS = ["secretRef"];
const OPERATOR_PROXY_KEYS = [
  "replicas",
  "port",
  "adminPort",
  "tls",
  "external",
  "resources",
  "image",
  "imagePullSecrets",
  "nodeSelector",
  "affinity",
  "topologySpreadConstraints",
  "tolerations",
  "podAnnotations",
  "podLabels",
  "serviceAnnotations",
  "priorityClassName",
];

function isMapping(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/**
 * Verification interval in seconds, when the address moves with its proxy; otherwise the default of the document
 * applies.
 */
const KUBEVIP_INTERVAL_SECONDS = 5;

/** `verification` with the default interval of the policy's provider. */
function withInterval(verification: unknown, nat: unknown): unknown {
  const moves = isMapping(nat) && nat.provider === "KubeVIP";
  if (!moves || !isMapping(verification) || verification.intervalSeconds !== undefined) return verification;
  return { ...verification, intervalSeconds: KUBEVIP_INTERVAL_SECONDS };
}

type Mode = Authentication["mode"];

/** `authentication` of a manifest, without the fields that only the operator uses. */
interface Manifested {
  mode: Mode;
  allowMissing?: unknown;
}

const needsOf = (mode: Mode = "None"): PolicySource["needs"] => ({
  password: readsPasswords(mode),
  certificate: readsCertificates(mode),
});

/**
 * Reads `spec.authentication`. Undefined: mode None, which the API server writes by default, so that the start options
 * decide. A typing error here would admit clients without a password.
 */
function readMode(reader: Reader, spec: Record<string, unknown>): Manifested | undefined {
  const keys = ["mode", "secretRef", "allowMissing"];
  const path = "spec.authentication";
  const given = spec.authentication === undefined ? {} : (reader.mapping(spec.authentication, path, keys) ?? {});
  const mode = reader.oneOf(given.mode, `${path}.mode`, AUTHENTICATION_MODES, "None");
  const { allowMissing } = given;
  if (mode !== "None") return { mode, ...(allowMissing === undefined ? {} : { allowMissing }) };
  const none = given.mode === undefined || given.mode === mode;
  if (none && spec.clients !== undefined) {
    reader.problem(`${path}.mode`, "must be Basic, TLS or BasicOrTLS with clients");
  } else if (allowMissing !== undefined && allowMissing !== false) {
    reader.problem(`${path}.allowMissing`, "needs clients, and the mode Basic, TLS or BasicOrTLS");
  }
  return undefined;
}

/**
 * Reads an EgressPolicy from a file or from an object of the API server. `blockedCIDRs`: the cluster's own ranges,
 * which only the operator knows. @throws PolicyError with every wrong field
 */
export function readManifest(manifest: unknown, blockedCIDRs: readonly string[] = []): PolicySource {
  const reader = new Reader();
  const value = reader.mapping(manifest, "", ["apiVersion", "kind", "metadata", "spec", "status"]) ?? {};
  if (value.apiVersion !== "egress.outrider.dev/v1alpha1") {
    reader.problem("apiVersion", `must be egress.outrider.dev/v1alpha1, not ${shown(value.apiVersion)}`);
  }
  if (value.kind !== "EgressPolicy") reader.problem("kind", `must be EgressPolicy, not ${shown(value.kind)}`);
  const metadata = isMapping(value.metadata) ? value.metadata : {};
  const name = metadata.name;
  if (typeof name !== "string" || !/^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$/.test(name)) {
    reader.problem("metadata.name", "must be 1 to 40 lower-case letters, digits or '-', beginning with a letter");
  }
  const namespace = metadata.namespace ?? "default";
  if (typeof namespace !== "string" || !/^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/.test(namespace)) {
    reader.problem("metadata.namespace", "must be a namespace name");
  }
  const spec = reader.mapping(value.spec, "spec", [...SPEC_KEYS, ...SPEC_KEYS_2, ...OPERATOR_KEYS]) ?? {};
  const own = [...SPEC_KEYS, ...SPEC_KEYS_2];
  const fields: Record<string, unknown> & { authentication?: Manifested | undefined } = Object.fromEntries(
    Object.entries(spec).filter(([key]) => own.includes(key)),
  );
  fields.verification = withInterval(spec.verification, spec.nat);
  fields.blockedCIDRs = blockedCIDRs;
  fields.authentication = readMode(reader, spec);
  // Other providers prove that a node has the static IP, which the upstream proxy hides.
  const provider = isMapping(spec.nat) ? (spec.nat.provider ?? "External") : "External";
  if (spec.upstreamProxy !== undefined && provider !== "External") {
    reader.problem("spec.upstreamProxy", `needs nat.provider External, not ${shown(provider)}`);
  }
  reader.done();
  const warnings = [
    ...OPERATOR_KEYS,
    ...OPERATOR_PROXY_KEYS.map((key) => `proxy.${key}`),
    ...OPERATOR_UPSTREAM_KEYS.map((key) => `upstreamProxy.${key}`),
  ]
    .filter((key) => {
      const [outer, inner] = key.split(".") as [string, string?];
      if (key === "authentication") return false;
      return inner === undefined
        ? spec[outer] !== undefined
        : isMapping(spec[outer]) && spec[outer][inner] !== undefined;
    })
    .map((key) => `spec.${key} is for the operator only: the proxy ignores it`);
  const document = readFields(fields, {
    path: "spec",
    policy: `${namespace}/${name}`,
    ignoredProxyKeys: OPERATOR_PROXY_KEYS,
    ignoredUpstreamKeys: OPERATOR_UPSTREAM_KEYS,
    version2: true,
  });
  warnings.push(...clientWarnings(document), ...upstreamWarnings(document));
  const needs = needsOf(fields.authentication?.mode);
  return { kind: "manifest", document, warnings, needs, sharedClient: DEFAULT_CLIENT };
}

/** @throws PolicyError always: the counterparts of the keys, if the file is Smokescreen's config.yaml */
function refuseFile(value: unknown): never {
  const expected = "a policy document (version: 1), an EgressPolicy manifest, or an acl.yaml";
  const keys = isMapping(value) ? smokescreenKeys(value) : [];
  if (keys.length === 0) throw new PolicyError([{ path: "", message: `is not a policy: expected ${expected}` }]);
  const message = `is not a policy, but Smokescreen's config.yaml: use these options instead (docs/migrate.md)`;
  throw new PolicyError([{ path: "", message }, ...keys.map(({ key, ours }) => ({ path: key, message: ours }))]);
}

/**
 * Reads a policy document, an EgressPolicy manifest or a Smokescreen/mole `acl.yaml`, and detects the kind by content.
 * `name` is the policy name of an acl.yaml in answers, since the file has no name of its own. @throws PolicyError
 */
export function readPolicy(text: string, options: { name: string } & AclChoice): PolicySource {
  const parsed = parseText(text);
  const { value } = parsed;
  if (isMapping(value) && (value.kind !== undefined || value.apiVersion !== undefined)) {
    // YAML forbids leading tabs; only acl.yaml files may have them.
    if (parsed.tabs) {
      throw new PolicyError([{ path: "", message: "not valid YAML: tabs as indentation; use spaces" }]);
    }
    return readManifest(value);
  }
  if (looksLikeAcl(value)) {
    const { policy, service, sharedClient, warnings } = readParsedAcl(parsed, options);
    const version2 = policy.clients !== undefined;
    const document = readFields({ ...policy }, { path: "", policy: options.name, internalRules: true, version2 });
    warnings.unshift(...identityWarnings(document, options.identities ?? WITHOUT_PROOFS, sharedClient));
    return {
      kind: "acl",
      document,
      service,
      warnings: boundedTexts(warnings, MAX_WARNINGS),
      needs: needsOf("None"),
      sharedClient,
    };
  }
  if (isMapping(value) && value.version !== undefined) {
    const document = readDocument(value);
    return {
      kind: "document",
      document,
      warnings: [...clientWarnings(document), ...upstreamWarnings(document)],
      needs: needsOf(document.authentication?.mode),
      sharedClient: document.authentication?.sharedClient ?? DEFAULT_CLIENT,
    };
  }
  return refuseFile(value);
}
