import type { EgressPolicySpec } from "../api/egresspolicy.ts";
import type { Container } from "./pod.ts";

/** Settings of a sender besides the usual variables. */
export interface Preset {
  /** Variables for the URL of the proxy. */
  urls: readonly string[];
  /** Variables for the entries of NO_PROXY, which are set only if there are entries. */
  noProxy: readonly string[];
  /**
   * The URL in `urls` has the address of the Service instead of its name. Svix resolves the name of the proxy itself
   * and rejects a private result, but accepts an address.
   */
  byAddress?: boolean;
  /** Appends `-Dhttp.proxyHost=…` to JAVA_TOOL_OPTIONS: the JDK reads no proxy variables. */
  java?: boolean;
  /** Why Basic credentials do not work, as a clause of a message. */
  cannotAuthenticate?: string;
  /** Flag that sets a proxy and overrides every variable. */
  flag?: string;
}

/** Flag of Convoy's server. Other programs may use it for something else. */
export const CONVOY_FLAG = "--proxy";

/** Presets of a policy. */
export const PRESETS: Record<EgressPolicySpec["preset"], Preset> = {
  Generic: { urls: [], noProxy: [] },
  // In Convoy's dispatcher, its own names override HTTP_PROXY and NO_PROXY (config/config.go, envconfig's prefixed names).
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

/** Own variables of all senders for the proxy URL. They override the usual ones, even if the policy has another preset. */
export const SENDER_URLS = [...new Set(Object.values(PRESETS).flatMap(({ urls }) => urls))];
/** Own variables of all senders for exclusions from the proxy. */
export const SENDER_NO_PROXY = [...new Set(Object.values(PRESETS).flatMap(({ noProxy }) => noProxy))];

/** First release of Convoy whose community edition reads proxy variables, and whose licensed edition reads NO_PROXY. */
const CONVOY_SINCE = [26, 3, 6] as const;

/** Name and tag of an image: `ghcr.io/frain-dev/convoy:v26.3.5@sha256:…` → convoy, v26.3.5. */
export function imageOf(container: Container): { name: string; tag: string | undefined } {
  const [path = ""] = (container.image ?? "").split("@");
  const last = path.slice(path.lastIndexOf("/") + 1);
  const colon = last.indexOf(":");
  return colon === -1 ? { name: last, tag: undefined } : { name: last.slice(0, colon), tag: last.slice(colon + 1) };
}

/** Whether the container runs Convoy, by the name of its image. */
export const isConvoy = (container: Container): boolean => /^convoy(-|$)/.test(imageOf(container).name);

/** Whether the container runs a Convoy that is known to be older. False for unknown tags (latest, digests). */
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
