import { isIP } from "node:net";
import { parseAddress } from "../../proxy/policy/cidr.ts";
import { decideName } from "../../proxy/policy/engine.ts";
import { isLoopback, neverAllowed } from "../../proxy/policy/special.ts";
import { excludes, isInside } from "./exclusions.ts";
import { type Container, literal } from "./pod.ts";
import type { InjectionTarget, Own } from "./variables.ts";
import { admitsInside, clusterDomainOf, hint, type Note, type RulesOf, viewFor } from "./warnings.ts";

/** A variable of a container with an HTTP endpoint for which the proxy rejects requests. */
interface RejectedEndpoint {
  /** Name of the variable. Its value may contain a password. */
  name: string;
  host: string;
  /** Cloud metadata and link-local addresses, which no rule opens. */
  never: boolean;
}

/** Variables whose value is a path below a fixed address (Amazon ECS). */
const FIXED: Readonly<Record<string, string>> = { AWS_CONTAINER_CREDENTIALS_RELATIVE_URI: "169.254.170.2" };
/** Variables whose value is a host with an optional port. */
const HOST_NAMES = /^(KUBERNETES_SERVICE_HOST|GCE_METADATA_HOST|[A-Z0-9_]+_EMULATOR_HOST)$/;
/** Variables that injection sets or judges itself. */
const OWN_NAMES = /(^|_)(proxy|proxy_addr|proxy_url|noproxy)$|^(EGRESS_PROXY_PASSWORD|CONVOY_OTEL_COLLECTOR_URL)$/i;
/** APIs of clouds, whose SDKs use the proxy variables. Other public URLs in variables are often not requested at all. */
const CLOUD_APIS = [".amazonaws.com", ".googleapis.com", ".windows.net", ".azure.com"];
/** Variables named in a hint. */
const MAX_SHOWN = 3;

function urlOf(name: string, value: string): URL | undefined {
  const fixed = FIXED[name];
  const text = fixed !== undefined ? `http://${fixed}` : HOST_NAMES.test(name) ? `http://${bracketed(value)}` : value;
  // A value that refers to other variables is unknown here.
  if (!/^https?:\/\//i.test(text) || text.includes("$(")) return undefined;
  return URL.canParse(text) ? new URL(text) : undefined;
}

const bracketed = (host: string): string => (isIP(host) === 6 ? `[${host}]` : host);

/** Why the proxy rejects requests for a host; undefined if it may allow them. */
function rejection(rules: RulesOf, host: string, port: number, domain: string): "never" | "rule" | undefined {
  const address = parseAddress(host);
  const never = address === null ? undefined : neverAllowed(address);
  // Many clients never use a proxy for loopback targets.
  if (host === "localhost" || (never !== undefined && isLoopback(never))) return undefined;
  if (never !== undefined) return "never";
  if (isInside(host, domain)) return admitsInside(rules, { host, port }) ? undefined : "rule";
  const set = CLOUD_APIS.some((suffix) => host.endsWith(suffix)) ? viewFor(rules) : undefined;
  return set !== undefined && "code" in decideName(set, { host, port, ip: false }) ? "rule" : undefined;
}

/**
 * Variables of a container that name HTTP endpoints other than webhook receivers, such as the credentials of EKS Pod
 * Identity (http://169.254.170.23) or an Elasticsearch in the cluster. Their clients use the injected proxy, which rejects
 * the requests. `noProxy`: entries of the injected container.
 */
export function rejectedEndpoints(
  container: Container,
  noProxy: readonly string[],
  { target, own, rules }: { target: InjectionTarget; own: Own; rules: RulesOf },
): RejectedEndpoint[] {
  const names = new Set((container.env ?? []).map(({ name }) => name).filter((name) => !OWN_NAMES.test(name)));
  return [...names].flatMap((name) => {
    const url = urlOf(name, literal(container, name) ?? "");
    if (url === undefined) return [];
    const host = url.hostname.replace(/^\[|\]$|\.$/g, "").toLowerCase();
    if (own.host(host) || noProxy.some((entry) => excludes(entry, host))) return [];
    const port = Number(url.port) || (url.protocol === "http:" ? 80 : 443);
    const why = rejection(rules, host, port, clusterDomainOf(target.host));
    return why === undefined ? [] : [{ name, host, never: why === "never" }];
  });
}

/** Hints about {@link rejectedEndpoints} of a container. */
export function endpointNotes({ name }: Container, rejected: readonly RejectedEndpoint[]): Note[] {
  const note = (endpoints: readonly RejectedEndpoint[], why: string): Note[] => {
    if (endpoints.length === 0) return [];
    const shown = endpoints.slice(0, MAX_SHOWN).map((one) => `${one.name} (${one.host})`);
    const rest = endpoints.length > MAX_SHOWN ? ` and ${endpoints.length - MAX_SHOWN} more` : "";
    return [hint(`container ${name}: the proxy rejects requests to ${shown.join(", ")}${rest}; ${why}`)];
  };
  return [
    ...note(
      rejected.filter(({ never }) => never),
      "no rule can allow it; see injection.noProxy, or use other credentials",
    ),
    ...note(
      rejected.filter(({ never }) => !never),
      "allow them in the policy (in the cluster: with cidrs), or see injection.noProxy",
    ),
  ];
}
