import { CONDITIONS, type ConditionType, type Reason } from "./names.ts";

/** metav1.Condition. */
export interface PolicyCondition {
  type: ConditionType;
  status: "True" | "False" | "Unknown";
  reason: Reason;
  message: string;
  observedGeneration: number;
  lastTransitionTime: string;
}

/** State of a condition before it is merged with the previous one. */
export type Finding = Pick<PolicyCondition, "status" | "reason" | "message">;

/** Finding with status True. */
export const yes = (reason: Reason, message: string): Finding => ({ status: "True", reason, message });
/** Finding with status False. */
export const no = (reason: Reason, message: string): Finding => ({ status: "False", reason, message });
/** Finding with status Unknown. */
export const unknown = (reason: Reason, message: string): Finding => ({ status: "Unknown", reason, message });

/** Number with its noun: `1 proxy`, `2 proxies`. The words may include a verb: `proxy is`, `proxies are`. */
export const counted = (count: number, one: string, many: string): string => `${count} ${count === 1 ? one : many}`;

/** Sorted names of objects for a message: the first `shown`, and the number of others. */
export function joinNames(objects: readonly { metadata: { name: string } }[], shown = 3): string {
  const names = objects.map(({ metadata }) => metadata.name).sort();
  const rest = names.length - shown;
  return rest > 0 ? `${names.slice(0, shown).join(", ")} and ${rest} more` : names.join(", ");
}

/** Limit of a message, in characters (metav1.Condition). */
const MAX_MESSAGE = 32_768;
const CUT = " (message truncated)";

function truncate(message: string): string {
  return message.length <= MAX_MESSAGE ? message : `${message.slice(0, MAX_MESSAGE - CUT.length)}${CUT}`;
}

/** Complete list of conditions. `lastTransitionTime` changes only with the status (KEP-1623). */
export function mergeConditions(
  before: readonly PolicyCondition[],
  findings: Readonly<Record<ConditionType, Finding>>,
  generation: number,
  now: string,
): PolicyCondition[] {
  return CONDITIONS.map((type) => {
    const { status, reason, message } = findings[type];
    const old = before.find((condition) => condition.type === type);
    const lastTransitionTime = old?.status === status ? old.lastTransitionTime : now;
    return { type, status, reason, message: truncate(message), observedGeneration: generation, lastTransitionTime };
  });
}
