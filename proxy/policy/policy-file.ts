import { type AclChoice, looksLikeAcl, readParsedAcl } from "./acl.ts";
import { type PolicyDocument, readDocument, readFields } from "./document.ts";
import { parseText } from "./parse.ts";
import { boundedTexts, PolicyError, Reader, shown } from "./rules.ts";
import { smokescreenKeys } from "./smokescreen.ts";

/** A parsed policy file. */
export interface PolicySource {
  kind: "document" | "manifest" | "acl";
  document: PolicyDocument;
  /** The service of an acl.yaml that applies, or `default`. */
  service?: string | undefined;
  /** Problems of the file that a user should check. */
  warnings: string[];
  /** The file requires credentials of clients: a proxy without any password must not start. */
  needsPassword: boolean;
}

/** Limit of the warnings of one file. Each is a log line, and a list of overlapping entries has thousands. */
const MAX_WARNINGS = 100;

const SPEC_KEYS = ["mode", "defaultAction", "ports", "allow", "deny", "staticIPs", "verification", "proxy"];
/** Keys of a manifest that only the operator uses. */
const OPERATOR_KEYS = ["preset", "injection", "nat", "networkPolicy", "authentication"];
const OPERATOR_PROXY_KEYS = [
  "replicas",
  "port",
  "adminPort",
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
  const spec = reader.mapping(value.spec, "spec", [...SPEC_KEYS, ...OPERATOR_KEYS]) ?? {};
  const fields = Object.fromEntries(Object.entries(spec).filter(([key]) => SPEC_KEYS.includes(key)));
  fields.verification = withInterval(spec.verification, spec.nat);
  fields.blockedCIDRs = blockedCIDRs;
  // A typing error here would admit clients without a password.
  const authentication =
    spec.authentication === undefined
      ? {}
      : (reader.mapping(spec.authentication, "spec.authentication", ["mode", "secretRef"]) ?? {});
  const auth = reader.oneOf(authentication.mode, "spec.authentication.mode", ["None", "Basic"], "None");
  reader.done();
  const warnings = [...OPERATOR_KEYS, ...OPERATOR_PROXY_KEYS.map((key) => `proxy.${key}`)]
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
  });
  return { kind: "manifest", document, warnings, needsPassword: auth === "Basic" };
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
    const { policy, service, warnings } = readParsedAcl(parsed, options);
    const document = readFields({ ...policy }, { path: "", policy: options.name, internalRules: true });
    return { kind: "acl", document, service, warnings: boundedTexts(warnings, MAX_WARNINGS), needsPassword: false };
  }
  if (isMapping(value) && value.version !== undefined) {
    return { kind: "document", document: readDocument(value), warnings: [], needsPassword: false };
  }
  return refuseFile(value);
}
