import { DEFAULT_CLIENT } from "./clients.ts";
import { type Decision, decideKnown, decideName, type PolicySet, sendsName, vetName } from "./engine.ts";
import { namesShown, plainLine, shown } from "./rules.ts";
import { specialClass } from "./special.ts";
import { formatTarget, parseAbsolute, parseAuthority, type Target } from "./target.ts";

/** Characters of a client's name in an error, with its quotes. */
const MAX_NAME_SHOWN = 120;

/**
 * The set that decides the requests of a client, by the name of its entry. Without a name: the policy itself, or the view
 * of the client `default`.
 */
export function viewNamed(policy: PolicySet, client: string | undefined): PolicySet | { error: string } {
  const { views } = policy;
  if (views === null) return client === undefined ? policy : { error: "the policy has no clients" };
  const view = views.get(client ?? DEFAULT_CLIENT);
  if (view !== undefined) return view;
  const known = `the policy has ${plainLine(namesShown(views.keys()), Number.POSITIVE_INFINITY)}`;
  if (client === undefined) return { error: `name a client, since there is no client default; ${known}` };
  return { error: `${plainLine(shown(client), MAX_NAME_SHOWN)} is not a client; ${known}` };
}

const rulesOf = (count: number, owner: "policy" | "client"): string[] =>
  count === 0 ? [] : [`${count} ${count === 1 ? "rule" : "rules"} of the ${owner}`];

const joined = (parts: string[]): string => (parts.length === 0 ? "none" : parts.join(", "));

/** The mode of a view, and the lists that refuse in spite of Report. */
function describeMode({ report, document, ownDeny }: PolicySet, own: "Enforce" | "Report" | undefined): string {
  const mode = `${own ?? document.mode} (${own === undefined ? "policy" : "client"})`;
  const lists: [binds: boolean, name: string][] = [
    [!report.deny && document.deny.length > 0, "deny rules of the policy"],
    [!report.ownDeny && ownDeny.length > 0, "deny rules of the client"],
    [!report.allow, "the allow side"],
  ];
  const binding = lists.filter(([binds]) => binds).map(([, name]) => name);
  if ((own ?? document.mode) === "Report") {
    return binding.length === 0 ? mode : `${mode}; these refuse nevertheless: ${binding.join(", ")}`;
  }
  const passes = report.deny && document.deny.length > 0;
  return passes ? `${mode}; these pass nevertheless: deny rules of the policy` : mode;
}

/** The parts of a client's view and their owners, each as a word and a text. Empty without clients. */
export function describeView(view: PolicySet): [part: string, text: string][] {
  const { document } = view;
  const entry = document.clients?.find(({ name }) => name === view.entry);
  if (entry === undefined) return [];
  const own = entry.allow?.length ?? 0;
  const policys = entry.allow === undefined || entry.inheritAllow ? document.allow.length : 0;
  const action = entry.defaultAction !== undefined ? "(client)" : own > 0 ? "since the client has allow" : "(policy)";
  const policyPorts = `${document.ports.join()} (policy)`;
  const ports =
    entry.ports === undefined
      ? policyPorts
      : `${entry.ports.join()} (client) for allow rules of the client and the default action, ${policyPorts} for other allow rules`;
  const limits = Object.entries(view.limits)
    .filter(([key, value]) => key !== "maxTunnels" || value > 0)
    .map(
      ([key, value]) => `${key} ${value} (${entry.limits !== undefined && key in entry.limits ? "client" : "policy"})`,
    );
  return [
    ["client", plainLine(entry.name, MAX_NAME_SHOWN)],
    ["deny", joined([...rulesOf(document.deny.length, "policy"), ...rulesOf(view.ownDeny.length, "client")])],
    ["allow", joined([...rulesOf(own, "client"), ...rulesOf(policys, "policy")])],
    ["default action", `${view.defaultAction}${action.startsWith("(") ? "" : ","} ${action}`],
    ["ports", ports],
    ["mode", describeMode(view, entry.mode)],
    ["limits", joined(limits)],
    ...rulesOf(entry.upstreamProxies?.length ?? 0, "client").map((text): [string, string] => ["upstreamProxies", text]),
  ];
}

/** Explains one target with the same decision that the proxy would make, without dialling. */
export interface Explanation {
  target: string;
  verdict: "allow" | "deny" | "unknown";
  code?: string;
  rule?: string;
  reason: string;
  wouldDeny?: { code: string; rule: string };
  addresses: { address: string; class: string; verdict: "in" | "out"; rule?: string; reason?: string }[];
}

/** Reads a user's `URL`, `host:port` or `IP:port`: https means port 443. Null when it is none of them. */
export function parseAsked(text: string): Target | null {
  if (/^https:\/\//i.test(text)) {
    const absolute = parseAbsolute(text.replace(/^https/i, "http"));
    if (absolute === null) return null;
    const explicit = /^https:\/\/(?:\[[^\]]*\]|[^[:/?]*):/i.test(text);
    return explicit ? absolute.target : { ...absolute.target, port: 443 };
  }
  return /^http:\/\//i.test(text) ? (parseAbsolute(text)?.target ?? null) : parseAuthority(text);
}

/**
 * Whether the answer depends on addresses: false where the name alone is refused, for IP addresses, and for names that the
 * upstream proxy resolves.
 */
export function needsAddresses(set: PolicySet, target: Target): boolean {
  return !target.ip && !sendsName(set, target) && !("code" in decideName(set, target));
}

/** The explanation of a name that the upstream proxy resolves. */
function explainSent(target: string, { rule, refusal, wouldDeny }: ReturnType<typeof vetName>): Explanation {
  if (refusal !== undefined) return { target, verdict: "deny", ...refusal, addresses: [] };
  const by = rule === "default" ? "the default action" : `rule ${rule}`;
  const reason = `allowed by ${by}; the upstream proxy resolves the name, and its addresses are not checked`;
  return { target, verdict: "allow", rule, reason, addresses: [], ...(wouldDeny ? { wouldDeny } : {}) };
}

/** Explains a target. `addresses` null: the name was not resolved, so only the name stage is decided. */
export function explain(set: PolicySet, target: Target, addresses: readonly string[] | null): Explanation {
  const asked = formatTarget(target);
  const known = target.ip ? [target.host] : addresses;
  if (known === null || sendsName(set, target)) {
    const stage = decideName(set, target);
    if ("code" in stage) return { target: asked, verdict: "deny", ...stage, addresses: [] };
    if (sendsName(set, target)) return explainSent(asked, vetName(set, target, stage));
    const rule = stage.rules[0]!.label;
    const wouldDeny = stage.overridden && { code: stage.overridden.code, rule: stage.overridden.rule };
    const reason = `the name passes by ${rule === "default" ? "the default action" : `rule ${rule}`}; its addresses are not resolved here`;
    return { target: asked, verdict: "allow", rule, reason, addresses: [], ...(wouldDeny ? { wouldDeny } : {}) };
  }
  const decision: Decision = decideKnown(set, target, known);
  const { vetted, ...rest } = decision;
  return {
    target: asked,
    ...rest,
    addresses: vetted.map((one) => ({
      address: one.address,
      class: specialClass(one.address, set.nat64) ?? "global",
      verdict: one.in ? "in" : "out",
      ...(one.rule === undefined ? {} : { rule: one.rule }),
      ...(one.reason === undefined ? {} : { reason: one.reason }),
    })),
  };
}
