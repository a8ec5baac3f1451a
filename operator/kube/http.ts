import type { ClientRequest, IncomingHttpHeaders, IncomingMessage } from "node:http";
import { type Agent, type RequestOptions, request } from "node:https";
import type { TLSSocket } from "node:tls";
import type { ClusterCredentials } from "./credentials.ts";
import { ApiError, errorOfTransport } from "./error.ts";

/** One request to the API server. */
export interface Call {
  method: string;
  /** Path and query. */
  path: string;
  headers?: { [name: string]: string };
  body?: string | undefined;
  /** Timeout of the complete answer, or of the head of a stream, in milliseconds. */
  timeoutMs: number;
  signal?: AbortSignal | undefined;
  /** Called when the call has a connection, which may take a while. An error ends the call before anything is sent. */
  refuse?: (() => ApiError | undefined) | undefined;
}

/** A complete answer of the API server, with any status. */
export interface Answer {
  status: number;
  headers: IncomingHttpHeaders;
  body: string;
}

/** Sends calls through one agent, with the current credentials. Every failure is an {@link ApiError}. */
export class Transport {
  readonly #credentials: ClusterCredentials;
  readonly #agent: Agent;
  readonly #userAgent: string;
  readonly #count: (call: Call, code: string) => void;

  constructor(
    credentials: ClusterCredentials,
    agent: Agent,
    options: { userAgent: string; count: (call: Call, code: string) => void },
  ) {
    this.#credentials = credentials;
    this.#agent = agent;
    this.#userAgent = options.userAgent;
    this.#count = options.count;
  }

  /** Returns the complete answer with any status. `maxBytes`: limit of its body. */
  async exchange(call: Call, maxBytes: number): Promise<Answer> {
    const deadline = deadlineOf(call);
    try {
      const response = await this.open(call, deadline.signal);
      const chunks: Buffer[] = [];
      let size = 0;
      for await (const chunk of response as AsyncIterable<Buffer>) {
        size += chunk.length;
        if (size > maxBytes) throw new ApiError(0, "BadAnswer", `${nameOf(call)}: an answer above ${maxBytes} bytes`);
        chunks.push(chunk);
      }
      const body = Buffer.concat(chunks).toString();
      return { status: response.statusCode!, headers: response.headers, body };
    } catch (error) {
      throw errorOf(call, error, deadline.signal);
    } finally {
      deadline.clear();
    }
  }

  /**
   * Resolves with the head of the answer. The caller reads the body. Retries once with new credentials after a 401.
   * Retries an idempotent call if the server has just closed the reused connection.
   */
  async open(call: Call, signal: AbortSignal): Promise<IncomingMessage> {
    for (let attempt = 0; ; attempt++) {
      const generation = this.#credentials.generation;
      const sent = await this.#send(call, signal);
      if (sent === "stale") {
        if (attempt < MAX_ATTEMPTS) continue;
        throw errorOfTransport(nameOf(call), "Unreachable", "every kept connection was closed");
      }
      this.#count(call, String(sent.statusCode));
      if (sent.statusCode !== 401 || attempt > 0 || !this.#credentials.refresh(generation)) return sent;
      sent.resume();
    }
  }

  /** Reads the credentials within the timeout of the call, since files and plugins may fail and plugins may hang. */
  async #proof(call: Call, signal: AbortSignal): Promise<RequestOptions> {
    const aborted = Promise.withResolvers<never>();
    const abort = () => aborted.reject(errorOf(call, undefined, signal));
    signal.addEventListener("abort", abort);
    try {
      if (signal.aborted) abort();
      return await Promise.race([this.#credentials.options(), aborted.promise]);
    } catch (error) {
      throw signal.aborted ? error : errorOfTransport(nameOf(call), "NoCredentials", error);
    } finally {
      signal.removeEventListener("abort", abort);
    }
  }

  async #send(call: Call, signal: AbortSignal): Promise<IncomingMessage | "stale"> {
    const { server } = this.#credentials;
    const { headers, ...tls } = await this.#proof(call, signal);
    return new Promise((resolve, reject) => {
      const outgoing = request({
        ...tls,
        agent: this.#agent,
        method: call.method,
        hostname: server.hostname.replace(/^\[|\]$/g, ""),
        port: server.port === "" ? 443 : Number(server.port),
        path: server.pathname.replace(/\/$/, "") + call.path,
        headers: {
          ...call.headers,
          ...(headers as { [name: string]: string }),
          "User-Agent": this.#userAgent,
          ...(call.body === undefined ? {} : { "Content-Length": Buffer.byteLength(call.body) }),
        },
        signal,
      });
      let answered = false;
      outgoing.on("response", (response) => {
        answered = true;
        resolve(response);
      });
      outgoing.on("error", (error: NodeJS.ErrnoException) => {
        if (answered) return; // the reader of the body gets the error
        if (isRepeatable(call) && outgoing.reusedSocket && STALE.has(error.code ?? "") && !signal.aborted) {
          resolve("stale");
          return;
        }
        this.#count(call, "<error>");
        reject(errorOf(call, error, signal));
      });
      // After an answer or an error this has no effect. A 101 closes the connection without an error.
      outgoing.on("close", () => reject(errorOf(call, new Error("the connection closed without an answer"), signal)));
      sendOn(outgoing, call);
    });
  }
}

/** Sends a request as soon as it has a connection, unless `refuse` returns an error. */
function sendOn(outgoing: ClientRequest, { body, refuse }: Call): void {
  if (refuse === undefined) {
    outgoing.end(body);
    return;
  }
  const send = () => {
    const refusal = refuse();
    if (refusal === undefined) outgoing.end(body);
    else outgoing.destroy(refusal);
  };
  outgoing.once("socket", (socket) => {
    if ((socket as TLSSocket & { secureConnecting: boolean }).secureConnecting) socket.once("secureConnect", send);
    else send();
  });
}

/** Retries on stale connections: more than the pool has. */
const MAX_ATTEMPTS = 8;
const STALE = new Set(["ECONNRESET", "EPIPE"]);

/** Whether a call is idempotent. Server-side apply is; other writes have versions or create objects. */
function isRepeatable(call: Call): boolean {
  return call.method === "GET" || call.headers?.["Content-Type"]?.startsWith("application/apply-patch") === true;
}

/** Name of a call in messages, without the query: `GET /api/v1/pods`. */
export function nameOf(call: Pick<Call, "method" | "path">): string {
  return `${call.method} ${call.path.split("?")[0]}`;
}

/** A signal that aborts with the caller's signal, or at the timeout. */
export function deadlineOf(call: Call): { signal: AbortSignal; clear: () => void } {
  const controller = new AbortController();
  const forward = () => controller.abort(call.signal?.reason);
  const expire = () => {
    const text = `${nameOf(call)}: no answer within ${call.timeoutMs} ms`;
    controller.abort(new ApiError(0, "Timeout", text));
  };
  const timer = setTimeout(expire, call.timeoutMs);
  if (call.signal?.aborted === true) forward();
  else call.signal?.addEventListener("abort", forward);
  return {
    signal: controller.signal,
    clear: () => {
      clearTimeout(timer);
      call.signal?.removeEventListener("abort", forward);
    },
  };
}

/** Converts any error of a call to an ApiError. */
export function errorOf(call: Call, error: unknown, signal: AbortSignal): ApiError {
  if (signal.aborted) {
    return signal.reason instanceof ApiError ? signal.reason : errorOfTransport(nameOf(call), "Aborted", "aborted");
  }
  return error instanceof ApiError ? error : errorOfTransport(nameOf(call), "Unreachable", error);
}
