import type { IncomingMessage } from "node:http";
import { ApiError, errorOfAnswer, errorOfEvent } from "./error.ts";
import { type Call, deadlineOf, errorOf, nameOf, type Transport } from "./http.ts";
import type { KubeObject } from "./resource.ts";

/** One event of a watch. A bookmark's object has nothing but its resourceVersion. */
export interface WatchEvent {
  type: "ADDED" | "MODIFIED" | "DELETED" | "BOOKMARK";
  object: KubeObject;
}

/** Characters of one event at most: objects are limited to about 1.5 MiB by etcd. */
const MAX_LINE = 16 * 1024 * 1024;

/**
 * Reads a watch until the server ends it (resolves) or anything else does (rejects). `call.timeoutMs` bounds the wait
 * for the head of the answer; how long silence may last afterwards is the caller's to judge, by aborting `call.signal`.
 */
export async function readWatch(transport: Transport, call: Call, onEvent: (event: WatchEvent) => void): Promise<void> {
  const ended = new AbortController();
  const forward = () => ended.abort(call.signal?.reason);
  call.signal?.addEventListener("abort", forward);
  if (call.signal?.aborted === true) forward();
  try {
    const head = deadlineOf({ ...call, signal: ended.signal });
    // The request lives as long as the signal it was made with: the deadline's is only told of the end, not of time.
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
  for await (const chunk of response as AsyncIterable<string>) body += chunk;
  const retryAfter = response.headers["retry-after"];
  return errorOfAnswer(`${nameOf(call)} (watch)`, response.statusCode!, body, retryAfter);
}

/** Handles each whole line at once, in order. What is cut in mid-line is dropped: the next watch delivers it again. */
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
