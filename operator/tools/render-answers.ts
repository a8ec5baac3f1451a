import type { Explanation } from "../../proxy/policy/explain.ts";
import type { ProxyStatus } from "../fleet/proxy-status.ts";
import { type Cell, type Colour, type Paint, safe, shortHash, table } from "./text.ts";

/** Text forms of what proxies answer. Pure: answers are untrusted text. */

type Proof = ProxyStatus["proofs"][number];

/** An explanation with the proxy that gave it. */
export interface LiveExplanation {
  namespace: string;
  policy: string;
  /** Hash of the document that the operator distributes. */
  wanted: string | null;
  proxy: { pod: string; node: string | null; version: string; hash: string | null };
  explanation: Explanation & { client?: string; phrase?: string };
  sources: readonly Proof[];
  /** The other ready proxies. A hash is null if the proxy did not answer. */
  others: readonly { pod: string; hash: string | null }[];
}

const isText = (value: unknown): boolean => typeof value === "string";
const isTextOrNone = (value: unknown): boolean => value === undefined || isText(value);

/** Reads the body of `/explain`. @throws Error if it has another form */
export function readExplanation(body: string): LiveExplanation["explanation"] {
  const value = JSON.parse(body) as Partial<LiveExplanation["explanation"]> | null;
  const { target, verdict, reason, code, rule, client, phrase, wouldDeny, addresses } = value ?? {};
  const isKnown =
    [target, verdict, reason].every(isText) &&
    [code, rule, client, phrase].every(isTextOrNone) &&
    (wouldDeny === undefined || (isText(wouldDeny?.code) && isText(wouldDeny?.rule))) &&
    Array.isArray(addresses) &&
    addresses.every(
      (one) => isText(one?.address) && isText(one?.class) && isText(one?.verdict) && isTextOrNone(one?.reason),
    );
  if (!isKnown) throw new Error("/explain has an unknown form; the proxy may have another version");
  return value as LiveExplanation["explanation"];
}

const VERDICTS: Readonly<Record<string, Colour>> = {
  allow: "green",
  deny: "red",
  unknown: "yellow",
  in: "green",
  out: "red",
};

function sourceText(sources: readonly Proof[]): string {
  if (sources.length === 0) return "verification is off";
  return sources
    .map(({ way, verified, observed }) => {
      const seen = observed.length === 0 ? "" : `, echo servers saw ${observed.join(", ")}`;
      return `${way} ${verified ? "proven" : "NOT proven: the proxy refuses requests unless onUnverified is Allow"}${seen}`;
    })
    .join("; ");
}

function othersText({ proxy, others, wanted }: LiveExplanation): string {
  const different = others.filter(({ hash }) => hash !== null && hash !== proxy.hash);
  const silent = others.filter(({ hash }) => hash === null);
  const same = others.length - different.length - silent.length;
  const parts = [
    ...different.map(({ pod, hash }) => `${pod} has another policy, ${shortHash(hash)}`),
    ...(silent.length === 0 ? [] : [`no answer from ${silent.map(({ pod }) => pod).join(", ")}`]),
    ...(wanted !== null && wanted !== proxy.hash ? [`the operator distributes ${shortHash(wanted)}`] : []),
  ];
  if (same > 0 || others.length === 0) {
    parts.unshift(
      others.length === 0 ? "no other ready proxy" : `${same} of ${others.length} others have the same policy`,
    );
  }
  return parts.join("; ");
}

/** Addresses of an explanation that the text shows. */
const MAX_ADDRESSES = 100;

/** The steps of a decision, in the order of the proxy. */
export function renderExplanation(live: LiveExplanation, paint: Paint): string {
  const { explanation, proxy } = live;
  const { target, verdict, rule, code, reason, wouldDeny, addresses, client, phrase } = explanation;
  const lines: [string, string][] = [
    ["policy", `${live.namespace}/${live.policy} ${proxy.hash ?? "none"}`],
    ["proxy", `pod ${proxy.pod}${proxy.node === null ? "" : ` on node ${proxy.node}`}, version ${proxy.version}`],
    ["others", othersText(live)],
    ...(client === undefined ? [] : [["client", client] satisfies [string, string]]),
  ];
  const steps: [string, string][] = [
    ["rule", rule ?? "none"],
    ...addresses.slice(0, MAX_ADDRESSES).map(({ address, class: kind, verdict, reason }): [string, string] => {
      return ["address", `${address} ${kind} ${verdict}${reason ? `: ${reason}` : ""}`];
    }),
    ...(addresses.length > MAX_ADDRESSES
      ? [["address", `and ${addresses.length - MAX_ADDRESSES} more (-o json has all)`] satisfies [string, string]]
      : []),
    ["source", sourceText(live.sources)],
    ...(code === undefined ? [] : [["code", code] satisfies [string, string]]),
    ["reason", reason],
    ...(wouldDeny === undefined
      ? []
      : [["report", `would be denied: ${wouldDeny.code} (${wouldDeny.rule})`] satisfies [string, string]]),
    ...(phrase === undefined ? [] : [["sender", phrase] satisfies [string, string]]),
  ];
  return [
    `${safe(target)}  ${paint(safe(verdict), VERDICTS[verdict])}`,
    ...lines.map(([part, text]) => `     ${part.padEnd(8)} ${safe(text)}`),
    ...steps.map(([part, text], i) => `  ${String(i + 1).padStart(2)} ${part.padEnd(8)} ${safe(text)}`),
  ].join("\n");
}

/** One egress path of one proxy after a round. */
export interface CheckedPath {
  pod: string;
  path: string;
  verified: boolean;
  /** False: the last round is older than the command, since the proxy could not be asked for one. */
  fresh: boolean;
  expected: readonly string[];
  /** Address by echo URL; null: no answer. */
  echoes: readonly { url: string; saw: string | null }[];
  error: string | null;
}

/** Address that each echo URL saw, from the summary of a round: it names the URLs that failed or saw another address. */
export function echoesOf(urls: readonly string[], { observed, error }: Proof): CheckedPath["echoes"] {
  const wrong = urls.find((url) => error === `${url} saw ${observed[0]}`);
  return urls.map((url) => {
    if (wrong !== undefined) return { url, saw: url === wrong ? observed[0]! : null };
    const failed = error?.split("; ").some((part) => part.startsWith(`${url}: `)) ?? false;
    return { url, saw: failed || observed.length === 0 ? null : observed.join(", ") };
  });
}

/** A line for each echo URL of each path. */
export function renderChecks(checks: readonly CheckedPath[], paint: Paint): string {
  const rows = checks.flatMap(({ pod, path, verified, fresh, expected, echoes }): Cell[][] =>
    echoes.map(({ url, saw }) => [
      pod,
      path,
      { text: verified ? "proven" : "not proven", colour: verified ? "green" : "red" },
      expected.join(", ") || "any",
      url,
      `${saw ?? "no answer"}${fresh ? "" : " (earlier round)"}`,
    ]),
  );
  const errors = checks.flatMap(({ pod, path, error }) =>
    error === null ? [] : [`${safe(pod)} ${safe(path)}: ${paint(safe(error), "yellow")}`],
  );
  return [...table([["POD", "PATH", "STATE", "EXPECTED", "ECHO URL", "SAW"], ...rows], paint), ...errors].join("\n");
}
