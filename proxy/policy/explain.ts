import { type Decision, decideKnown, decideName, type PolicySet } from "./engine.ts";
import { specialClass } from "./special.ts";
import { formatTarget, parseAbsolute, parseAuthority, type Target } from "./target.ts";

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

/** Whether the answer depends on addresses: false where the name alone is refused, and for IP addresses. */
export function needsAddresses(set: PolicySet, target: Target): boolean {
  return !target.ip && !("code" in decideName(set, target));
}

/** Explains a target. `addresses` null: the name was not resolved, so only the name stage is decided. */
export function explain(set: PolicySet, target: Target, addresses: readonly string[] | null): Explanation {
  const shown = formatTarget(target);
  const known = target.ip ? [target.host] : addresses;
  if (known === null) {
    const stage = decideName(set, target);
    if ("code" in stage) return { target: shown, verdict: "deny", ...stage, addresses: [] };
    const rule = stage.rules[0]!.label;
    const wouldDeny = stage.overridden && { code: stage.overridden.code, rule: stage.overridden.rule };
    const reason = `the name passes by ${rule === "default" ? "the default action" : `rule ${rule}`}; its addresses are not resolved here`;
    return { target: shown, verdict: "allow", rule, reason, addresses: [], ...(wouldDeny ? { wouldDeny } : {}) };
  }
  const decision: Decision = decideKnown(set, target, known);
  const { vetted, ...rest } = decision;
  return {
    target: shown,
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
