import { readManifest } from "../policy-file.ts";
import { PolicyError } from "../rules.ts";
import { TooComplexError } from "./budget.ts";
import { describeTargets, shown, specialRanges } from "./describe.ts";
import { admittingOf, type Difference, diffPolicies } from "./diff.ts";

/** About 0.6 s of CPU. Meanwhile the operator answers no admission of pods. */
const MAX_UNITS = 60_000;
/** Items of a list: the whole text is one line of kubectl. */
const MAX_ITEMS = 3;

const list = (items: readonly string[]): string => shown([...new Set(items)], MAX_ITEMS);

/** One kind of openings: those of `differences`, as a text; none without any. */
function part(differences: readonly Difference[], text: (targets: string) => string): string[] {
  return differences.length === 0 ? [] : [text(list(differences.map(describeTargets)))];
}

function describe(opened: readonly Difference[]): string[] {
  const special = opened.filter(({ change }) => specialRanges(change).length > 0);
  const ranges = list(special.flatMap(({ change }) => specialRanges(change)));
  const denied = opened.filter(({ change }) => change.old.code === "denied-rule");
  const rules = list(denied.map(({ change }) => change.old.rule ?? ""));
  const unlisted = opened.filter(
    ({ change: { old, new: now } }) => old.code === "not-allowed" && (now.rule === "default" || now.report === true),
  );
  const unproven = opened.filter(
    ({ change, clients }) => change.old.code === "client" && clients?.some(({ kind }) => kind === "missing"),
  );
  return [
    ...part(special, (targets) => `special-purpose ranges for ${targets}: ${ranges}`),
    ...part(denied, (targets) => `targets that deny rules refused (${rules}): ${targets}`),
    ...part(unlisted, (targets) => `targets that no rule lists: ${targets}`),
    ...part(unproven, (targets) => `clients without a proof: ${targets}`),
  ];
}

/**
 * A line about an edit of an EgressPolicy that opens more than its allow lists: special-purpose ranges, targets that a deny rule
 * refused, targets that no rule lists (a wider default action, Report), or the policy to clients without a proof. Undefined:
 * the edit opens none of these, or one of both manifests is invalid.
 */
export function wideningOf(before: unknown, now: unknown, blockedCIDRs: readonly string[] = []): string | undefined {
  const read = (manifest: unknown) => admittingOf(readManifest(manifest, blockedCIDRs), { hash: "" });
  try {
    const { differences } = diffPolicies(read(before), read(now), MAX_UNITS);
    const parts = describe(differences.filter(({ change, upstreamProxies }) => change.opens && !upstreamProxies));
    return parts.length === 0 ? undefined : `this edit opens ${parts.join("; ")}`;
  } catch (error) {
    if (error instanceof PolicyError) return undefined;
    if (error instanceof TooComplexError) return "this edit is too large to compare; use outrider diff";
    throw error;
  }
}
