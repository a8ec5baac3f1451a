import { CONDITIONS } from "../api/names.ts";
import type { AddressChange } from "../reconcile/objects/published/list.ts";
import type { ConditionChange } from "./history.ts";
import type { ConditionView, EventView } from "./overview.ts";

/** One entry of a timeline. */
export interface Moment {
  /** RFC 3339. */
  at: string;
  /** condition: a condition changed. event: an Event of the API. address: a published address changed its state. */
  kind: "condition" | "event" | "address";
  /** Condition type, type of the Event (Normal, Warning), or address. */
  subject: string;
  /** Status of the condition, count of the Event, or state of the address. */
  state: string;
  /** Status or state before; null: unknown, or there was none. */
  before: string | null;
  reason: string;
  message: string;
}

interface Inputs {
  conditions: readonly ConditionView[];
  history: readonly ConditionChange[];
  events: readonly EventView[];
  changes: readonly AddressChange[];
}

/** Entries of a timeline. */
const MAX_MOMENTS = 100;
/** Time between a condition change and its Event, in milliseconds. The Event is written first. */
const SAME_MS = 10_000;

const timeOf = (text: string): number => Date.parse(text) || 0;

function ofCondition({ at, type, before, status, reason, message }: ConditionChange): Moment {
  return { at, kind: "condition", subject: type, state: status, before, reason, message };
}

/** Last changes that the status itself reports, for the time before the history. */
function lastChanges(conditions: readonly ConditionView[], history: readonly ConditionChange[]): Moment[] {
  return conditions.flatMap(({ type, status, reason, message, since }): Moment[] => {
    if (since === null || history.some((change) => change.type === type && change.at >= since)) return [];
    return [{ at: since, kind: "condition", subject: type, state: status, before: null, reason, message }];
  });
}

/** Whether an Event only announces one of these changes: its message begins with the condition (`Accepted: …`). */
function isKnown({ reason, message, last, count }: EventView, moments: readonly Moment[]): boolean {
  const type = CONDITIONS.find((one) => message.startsWith(`${one}: `));
  if (type === undefined || last === null || count > 1) return false;
  return moments.some(
    ({ at, subject, reason: other }) =>
      subject === type && other === reason && Math.abs(timeOf(at) - timeOf(last)) <= SAME_MS,
  );
}

/** Changes of conditions, Events and changes of published addresses, newest first. Pure. */
export function timelineOf({ conditions, history, events, changes }: Inputs): Moment[] {
  // Newest first, also those of one second: the order of times decides, and the sort is stable.
  const known = [...[...history].reverse().map(ofCondition), ...lastChanges(conditions, history)];
  const others = events
    .filter((event) => event.last !== null && !isKnown(event, known))
    .map(({ type, reason, message, count, last }): Moment => {
      return { at: last!, kind: "event", subject: type, state: `${count}`, before: null, reason, message };
    });
  const addresses = changes.map(({ address, state, since }): Moment => {
    return { at: since, kind: "address", subject: address, state, before: null, reason: "", message: "" };
  });
  const order = ({ subject }: Moment) => (CONDITIONS as readonly string[]).indexOf(subject);
  return [...known, ...others, ...addresses]
    .sort((a, b) => timeOf(b.at) - timeOf(a.at) || order(a) - order(b))
    .slice(0, MAX_MOMENTS);
}
