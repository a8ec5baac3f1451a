import type { EgressPolicySpec } from "../api/egresspolicy.ts";
import type { Container } from "./pod.ts";

/** What a sender reads besides the usual variables. */
export interface Preset {
  /** Variables that take the proxy's URL. */
  urls: readonly string[];
  /** Variables that take the entries of NO_PROXY; written only where there are any. */
  noProxy: readonly string[];
  /**
   * The URL in `urls` has the Service's address instead of its name: Svix resolves the proxy's name itself and refuses a
   * private answer, while it takes an address as it is.
   */
  byAddress?: boolean;
  /** Appends `-Dhttp.proxyHost=…` to JAVA_TOOL_OPTIONS: the JDK reads no proxy variables. */
  java?: boolean;
  /** Why Basic credentials do not work: the text follows the sender's name. */
  cannotAuthenticate?: string;
  /** The flag that sets a proxy and wins over every variable. */
  flag?: string;
}

/** A flag of Convoy's server; other programs may call something else so. */
export const CONVOY_FLAG = "--proxy";

/** The senders that a policy can name. */
export const PRESETS: Record<EgressPolicySpec["preset"], Preset> = {
  Generic: { urls: [], noProxy: [] },
  // Convoy's own names win over HTTP_PROXY and NO_PROXY in its dispatcher (config/config.go, envconfig's prefixed names).
  Convoy: {
    urls: ["CONVOY_SERVER_HTTP_HTTP_PROXY"],
    noProxy: ["CONVOY_SERVER_HTTP_NO_PROXY"],
    flag: CONVOY_FLAG,
  },
  Svix: {
    urls: ["SVIX_PROXY_ADDR"],
    noProxy: ["SVIX_NOPROXY"],
    byAddress: true,
    cannotAuthenticate: "Svix sends no proxy credentials",
  },
  Outpost: { urls: ["DESTINATIONS_WEBHOOK_PROXY_URL"], noProxy: [] },
  Java: {
    urls: [],
    noProxy: [],
    java: true,
    cannotAuthenticate: "Java sends no Basic credentials on CONNECT (disabled since 8u111)",
  },
};

/** Every sender's own variables. They win over the usual ones, also where a policy names no preset, or another. */
export const SENDER_URLS = [...new Set(Object.values(PRESETS).flatMap(({ urls }) => urls))];
export const SENDER_NO_PROXY = [...new Set(Object.values(PRESETS).flatMap(({ noProxy }) => noProxy))];

/** The first release of Convoy whose community edition reads proxy variables, and whose licensed one reads NO_PROXY. */
export const CONVOY_SINCE = [26, 3, 6] as const;

/** Name and tag of an image: `ghcr.io/frain-dev/convoy:v26.3.5@sha256:…` → convoy, v26.3.5. */
export function imageOf(container: Container): { name: string; tag: string | undefined } {
  const [path = ""] = (container.image ?? "").split("@");
  const last = path.slice(path.lastIndexOf("/") + 1);
  const colon = last.indexOf(":");
  return colon === -1 ? { name: last, tag: undefined } : { name: last.slice(0, colon), tag: last.slice(colon + 1) };
}

/** Whether the container runs Convoy, as far as its image tells. */
export const isConvoy = (container: Container): boolean => /^convoy(-|$)/.test(imageOf(container).name);

/** Whether the container runs a Convoy that is known to be older; unknown tags (latest, digests) are not. */
export function isOldConvoy(container: Container): boolean {
  if (!isConvoy(container)) return false;
  const { tag } = imageOf(container);
  const version = /^v?(\d+)\.(\d+)\.(\d+)/
    .exec(tag ?? "")
    ?.slice(1)
    .map(Number);
  if (version === undefined) return false;
  const differs = CONVOY_SINCE.findIndex((part, i) => version[i] !== part);
  return differs !== -1 && version[differs]! < CONVOY_SINCE[differs]!;
}
