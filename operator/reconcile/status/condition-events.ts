import type { PolicyCondition } from "../../api/conditions.ts";
import { type ConditionType, REASON, type Reason } from "../../api/names.ts";

/** Ordinary steps, and reasons that follow from another condition. */
const IN_PROGRESS: ReadonlySet<Reason> = new Set([
  REASON.progressing,
  REASON.propagating,
  REASON.noProxy,
  REASON.replacing,
  REASON.notAccepted,
]);

/** Whether a condition is False in an ordinary step, or repeats the reason of another condition. */
const isOrdinary = (type: ConditionType, reason: Reason) =>
  IN_PROGRESS.has(reason) || (reason === REASON.scaledToZero && type !== "ProxyAvailable");

/** Reasons of a condition that is True and still needs attention. */
const DOUBTFUL: ReadonlySet<Reason> = new Set([REASON.stale, REASON.widened, REASON.upgradePaused]);

/** Whether a user should act: the event has the type Warning. */
export function isTrouble({ status, reason }: PolicyCondition): boolean {
  return status !== "True" || DOUBTFUL.has(reason);
}

/**
 * Whether a condition change becomes an event. Event lists are short and limited: a successful rolling update or edit
 * adds at most one event. A problem adds one as well, and none for `Ready`, which repeats it.
 */
export function isReported(condition: PolicyCondition, before: PolicyCondition | undefined): boolean {
  const { type, status, reason } = condition;
  if (status === "Unknown" || (before?.status === status && before.reason === reason)) return false;
  if (DOUBTFUL.has(reason)) return true;
  if (type === "Ready") return status === "True" || reason === REASON.inUse;
  if (status === "True") return before?.status === "False" && !isOrdinary(type, before.reason);
  if (isOrdinary(type, reason)) return false;
  // For a new policy only problems that a user has to fix: the other conditions change without action.
  return before !== undefined || type === "Accepted" || type === "Programmed";
}
