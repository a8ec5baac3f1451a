import type { Head } from "./head.ts";

/** Limit in characters of each id: a `traceparent` of version 00 has 55. */
const MAX_LENGTH = 128;

/** Ids of the trace of a request, as its client sent them (latin1). Absent: not sent. */
export interface Trace {
  /** The value of `X-Smokescreen-Trace-ID`. */
  traceId?: string | undefined;
  /** The value of `traceparent` (W3C Trace Context). */
  traceparent?: string | undefined;
}

/** Copies the ids of a request into `trace`; of several fields of one name the first one counts. */
export function noteTrace({ headers }: Pick<Head, "headers">, trace: Trace): void {
  for (const [name, value] of headers) {
    // The length distinguishes most fields.
    if ((name.length !== 22 && name.length !== 11) || value === "") continue;
    const lower = name.toLowerCase();
    if (lower === "x-smokescreen-trace-id") trace.traceId ??= value.slice(0, MAX_LENGTH);
    else if (lower === "traceparent") trace.traceparent ??= value.slice(0, MAX_LENGTH);
  }
}
