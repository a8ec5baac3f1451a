import type { IncomingMessage } from "node:http";
import { ApiError, errorOfAnswer, errorOfEvent } from "./error.ts";
import { type Call, deadlineOf, errorOf, nameOf, type Transport } from "./http.ts";
import type { KubeObject } from "./resource.ts";

/** One event of a watch. The object of a bookmark has only a resourceVersion. */
export interface WatchEvent {
  type: "ADDED" | "MODIFIED" | "DELETED" | "BOOKMARK";
  object: KubeObject;
}

/** Limit of one event, in characters. etcd limits objects to about 1.5 MiB. */
const MAX_LINE = 16 * 1024 * 1024;
/** Limit of a refusal, in characters. */
const MAX_REFUSAL = 65_536;

/**
 * Reads a watch. Resolves when the server ends it, and rejects if anything else does. `call.timeoutMs` limits the wait
 * for the head of the answer. Afterwards the caller has to abort `call.signal` if there are no events for too long.
 */
export async function readWatch(transport: Transport, call: Call, onEvent: (event: WatchEvent) => void): Promise<void> {
  const ended = new AbortController();
  const forward = () => ended.abort(call.signal?.reason);
  call.signal?.addEventListener("abort", forward);
  if (call.signal?.aborted === true) forward();
  try {
    const head = deadlineOf({ ...call, signal: ended.signal });
    // The request uses the signal of the watch, since it lasts longer than the deadline of the head.
    head.signal.addEventListener("abort", () => ended.abort(head.signal.reason));
    const response = await transport.open(call, ended.signal).finally(head.clear);
    if (response.statusCode !== 200) throw await refusal(call, response);
    await readEvents(call, response, onEvent);
  } catch (error) {
    throw errorOf(call, error, ended.signal);
  } finally {
    call.signal?.removeEventListener("abort", forward);
  }
}

async function refusal(call: Call, response: IncomingMessage): Promise<ApiError> {
  let body = "";
  response.setEncoding("utf8");
  for await (const chunk of response as AsyncIterable<string>) {
    body += chunk;
    if (body.length > MAX_REFUSAL) break;
  }
  const retryAfter = response.headers["retry-after"];
  return errorOfAnswer(`${nameOf(call)} (watch)`, response.statusCode!, body, retryAfter);
}

/** Handles each complete line in order. A partial last line is dropped, since the next watch delivers it again. */
async function readEvents(call: Call, response: IncomingMessage, onEvent: (event: WatchEvent) => void): Promise<void> {
  let rest = "";
  response.setEncoding("utf8");
  for await (const chunk of response as AsyncIterable<string>) {
    const lines = (rest + chunk).split("\n");
    rest = lines.pop()!;
    for (const line of lines) if (line !== "") onEvent(parseEvent(call, line));
    if (rest.length > MAX_LINE) throw new ApiError(0, "BadAnswer", `${nameOf(call)} (watch): an event without an end`);
  }
}

function parseEvent(call: Call, line: string): WatchEvent {
  let event: { type: string; object: KubeObject };
  try {
    event = JSON.parse(line) as { type: string; object: KubeObject };
  } catch (error) {
    throw new ApiError(0, "BadAnswer", `${nameOf(call)} (watch): an event that is no JSON`, { cause: error });
  }
  if (event.type === "ERROR") throw errorOfEvent(`${nameOf(call)} (watch)`, event.object);
  return event as WatchEvent;
}
