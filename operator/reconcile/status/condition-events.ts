import type { Condition } from "../../api/conditions.ts";
import { REASON, type Reason } from "../../api/names.ts";

/** Ordinary steps, and what only follows from another condition. */
const UNDER_WAY: ReadonlySet<Reason> = new Set([
  REASON.progressing,
  REASON.propagating,
  REASON.noProxy,
  REASON.replacing,
  REASON.notAccepted,
]);

/** What is True, and nothing to be content with. */
const DOUBTFUL: ReadonlySet<Reason> = new Set([REASON.stale, REASON.widened]);

/** Whether somebody should look: the type of its event is Warning. */
export function isTrouble({ status, reason }: Condition): boolean {
  return status !== "True" || DOUBTFUL.has(reason);
}

/**
 * Whether a condition is worth an event. A user's event list is short and limited: a roll-out or an edit that goes well
 * adds one line at most, and a trouble one line, not one more for `Ready`, which repeats it.
 */
export function isNews(condition: Condition, before: Condition | undefined): boolean {
  const { type, status, reason } = condition;
  if (status === "Unknown" || (before?.status === status && before.reason === reason)) return false;
  if (DOUBTFUL.has(reason)) return true;
  if (type === "Ready") return status === "True" || reason === REASON.inUse;
  if (status === "True") return before?.status === "False" && !UNDER_WAY.has(before.reason);
  if (UNDER_WAY.has(reason)) return false;
  // Of a policy that is just begun only what somebody has to mend: everything else comes by itself.
  return before !== undefined || type === "Accepted" || type === "Programmed";
}
