import { parse } from "yaml";
import { type Cidr, contains, parseAddress, parseCidr } from "../../proxy/policy/cidr.ts";
import { PolicyError, Reader, readCidrs } from "../../proxy/policy/rules.ts";
import type { EgressPolicySpec } from "../api/egresspolicy.ts";
import { PROVIDER_NAMES } from "../providers/index.ts";
import type { Provider } from "../providers/provider.ts";

/** Permission of some namespaces to use providers with exclusive addresses. */
interface Grant {
  /** Names, or `*` for all. */
  namespaces: readonly string[];
  providers: readonly string[];
  staticIPs: readonly Cidr[];
}
export type Grants = readonly Grant[];

/**
 * Parses a grants file: `grants: [{namespaces, providers, staticIPs}]`. @throws PolicyError, or the error of the YAML
 * parser
 */
export function parseGrants(text: string): Grants {
  const reader = new Reader();
  const top = reader.mapping(parse(text), "", ["grants"]) ?? {};
  const grants = reader.list(top.grants, "grants", 1000).map((entry, i): Grant => {
    const path = `grants[${i}]`;
    const fields = reader.mapping(entry, path, ["namespaces", "providers", "staticIPs"]) ?? {};
    const words = (key: string, known?: readonly string[]) =>
      reader.list(fields[key], `${path}.${key}`, 1000).map((word, j) => {
        const here = `${path}.${key}[${j}]`;
        if (known !== undefined) return reader.oneOf(word, here, known, known[0]!);
        if (typeof word !== "string" || !/^(\*|[a-z0-9]([-a-z0-9]*[a-z0-9])?)$/.test(word)) {
          reader.problem(here, "must be a namespace, or *");
        }
        return String(word);
      });
    const namespaces = words("namespaces");
    if (namespaces.length === 0) reader.problem(`${path}.namespaces`, "is empty; name namespaces, or *");
    const cidrs = readCidrs(reader, fields.staticIPs, `${path}.staticIPs`).map(parseCidr);
    for (const key of ["providers", "staticIPs"]) {
      if (Array.isArray(fields[key]) ? fields[key].length === 0 : fields[key] === undefined) {
        reader.problem(`${path}.${key}`, "is empty; a grant needs providers and staticIPs");
      }
    }
    const staticIPs = cidrs.filter((cidr): cidr is Cidr => !("error" in cidr));
    return { namespaces, providers: words("providers", PROVIDER_NAMES), staticIPs };
  });
  if (reader.problems.length > 0) throw new PolicyError(reader.problems);
  return grants;
}

/** Whether a namespace may have an exclusive address with some provider. */
export function isGranted(grants: Grants, namespace: string, text: string): boolean {
  const address = parseAddress(text);
  if (address === null) return false;
  return grants.some(
    ({ namespaces, staticIPs }) =>
      (namespaces.includes("*") || namespaces.includes(namespace)) && staticIPs.some((cidr) => contains(cidr, address)),
  );
}

/** Results of {@link notGranted} by spec: reading 128 addresses takes 0.1 ms, and a decision may concern many policies. */
const memo = new WeakMap<
  EgressPolicySpec,
  { grants: Grants; namespace: string; provider: Provider; result: string | undefined }
>();

const FIX = "ask the administrator of the operator for one (--grants)";

/** Why a namespace may not use the provider and the addresses of its policy. Providers without slots need no grant. */
export function notGranted(
  grants: Grants,
  namespace: string,
  provider: Provider,
  spec: EgressPolicySpec,
): string | undefined {
  if (provider.shape.kind !== "Slots") return undefined;
  const known = memo.get(spec);
  const isSame = known?.grants === grants && known.namespace === namespace && known.provider === provider;
  if (isSame) return known.result;
  const result = whyNotGranted(grants, namespace, provider, spec);
  memo.set(spec, { grants, namespace, provider, result });
  return result;
}

function whyNotGranted(
  grants: Grants,
  namespace: string,
  provider: Provider,
  spec: EgressPolicySpec,
): string | undefined {
  const own = grants.filter(
    (grant) =>
      (grant.namespaces.includes("*") || grant.namespaces.includes(namespace)) &&
      grant.providers.includes(provider.name),
  );
  if (own.length === 0) {
    return `spec.nat.provider: namespace ${namespace} has no grant for ${provider.name}; ${FIX}`;
  }
  for (const [i, ip] of (spec.staticIPs ?? []).entries()) {
    for (const key of ["address", "sourceAddress"] as const) {
      const address = parseAddress(ip[key] ?? ip.address);
      if (address !== null && own.some((grant) => grant.staticIPs.some((cidr) => contains(cidr, address)))) continue;
      return `spec.staticIPs[${i}].${key}: namespace ${namespace} has no grant for ${ip[key] ?? ip.address}; ${FIX}`;
    }
  }
  return undefined;
}
