import { once } from "node:events";
import type { IncomingMessage, ServerResponse } from "node:http";
import { createServer, type Server } from "node:https";
import type { AddressInfo } from "node:net";
import type { Logger } from "../../proxy/cli/log.ts";
import { listenError } from "../../proxy/cli/options.ts";
import { type Clock, sleep, systemClock } from "../kube/clock.ts";
import { type AdmitParts, admit } from "./admit.ts";
import type { Result, WebhookMetrics } from "./metrics.ts";
import { readReview, type Verdict, writeReview } from "./review.ts";

/** The path in the webhook configuration. */
export const INJECT_PATH = "/inject";

/** As long as the API server's transport keeps idle connections (controller-runtime's IdleTimeout): it closes them, not we. */
const KEEP_ALIVE_MS = 90 * 1000;
/** controller-runtime's ReadHeaderTimeout; the API server itself gives up after 5 s (`timeoutSeconds`). */
const REQUEST_MS = 32 * 1000;
/** The API server takes objects of 3 MiB at most; a review wraps one. */
const MAX_BODY_BYTES = 4 * 1024 * 1024;
/** An API server has 25 idle connections to a webhook at most; there are few API servers. */
const MAX_CONNECTIONS = 1000;
/**
 * After a SIGTERM the API server goes on using the connections that it has (kubernetes#127335), and new ones come until
 * everybody has heard of the changed endpoints.
 */
const DRAIN_MS = 15 * 1000;
const ENDPOINTS_MS = 5 * 1000;
/** How often the end of the connections is looked for. */
const LOOK_MS = 100;
/** For answers under way, after the drain. */
const LAST_MS = 5 * 1000;

/** A bad request: status and one line. */
class BadRequest extends Error {
  readonly status: number;
  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

const TOO_LARGE = 413;

/** @throws BadRequest; what is left of a body that is too large is not read */
function readBody(request: IncomingMessage): Promise<string> {
  return new Promise((resolve, reject) => {
    const refuse = () => {
      request.pause();
      reject(new BadRequest(TOO_LARGE, `the body is above ${MAX_BODY_BYTES} bytes`));
    };
    if (Number(request.headers["content-length"] ?? 0) > MAX_BODY_BYTES) {
      refuse();
      return;
    }
    const chunks: Buffer[] = [];
    let size = 0;
    request.on("data", (chunk: Buffer) => {
      size += chunk.length;
      if (size > MAX_BODY_BYTES) refuse();
      else chunks.push(chunk);
    });
    request.on("end", () => resolve(Buffer.concat(chunks).toString()));
    request.on("error", reject);
  });
}

function check({ url, method, headers }: IncomingMessage): void {
  // The API server adds ?timeout=5s.
  if ((url ?? "").split("?")[0] !== INJECT_PATH) throw new BadRequest(404, `reviews are posted to ${INJECT_PATH}`);
  if (method !== "POST") throw new BadRequest(405, "reviews are posted");
  const type = headers["content-type"] ?? "";
  if (type.split(";")[0]!.trim() !== "application/json") {
    throw new BadRequest(400, "Content-Type must be application/json");
  }
}

/** The webhook's HTTPS server. Which certificate it shows is told to it, now and later. */
export interface Webhook {
  readonly port: number;
  /** Whether it has a certificate, and does not end. */
  readonly ready: boolean;
  /** From the next connection on. */
  serve(pair: { cert: string; key: string }): void;
  /** Answers on, telling clients to go elsewhere, until they have gone; at most 15 s and what is under way. */
  drain(): Promise<void>;
}

export interface WebhookParts extends AdmitParts {
  log: Logger;
  metrics?: WebhookMetrics | undefined;
  clock?: Clock | undefined;
}

/** Listens. @throws UsageError where it cannot */
export async function makeWebhook(where: { host: string; port: number }, parts: WebhookParts): Promise<Webhook> {
  const { log, metrics, clock = systemClock } = parts;
  let draining = false;
  let certified = false;

  const answer = async (request: IncomingMessage): Promise<{ body: string; result: Result; at: number }> => {
    check(request);
    const text = await readBody(request);
    const at = clock.now();
    const read = readReview(text);
    if (read.kind === "bad") throw new BadRequest(400, read.why);
    if (read.kind === "other") return { body: writeReview(read.uid, {}), result: "other", at };
    const { review } = read;
    const { namespace, pod } = review;
    const verdict = await admit(parts, review);
    const result = resultOf(verdict, review.dryRun);
    const name = pod.metadata.name ?? pod.metadata.generateName;
    const level = result === "refused" ? "warn" : "debug";
    log[level]({ namespace, pod: name, result, reason: verdict.refused?.message }, "pod reviewed");
    return { body: writeReview(review.uid, verdict), result, at };
  };

  const handle = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const came = clock.now();
    let status = 200;
    let type = "application/json";
    let body: string;
    let result: Result;
    let at = came;
    try {
      ({ body, result, at } = await answer(request));
    } catch (error) {
      // The caller went away, or did not end its request in time: nobody to answer.
      if (request.destroyed && !request.complete) return;
      type = "text/plain";
      const bad = error instanceof BadRequest;
      status = bad ? error.status : 500;
      result = bad ? "invalid" : "failed";
      body = bad ? `${error.message}\n` : `the pod cannot be reviewed now: ${(error as Error).message}\n`;
      if (bad) log.warn({ status, reason: error.message, from: request.socket.remoteAddress }, "bad request");
      else log.error({ err: error }, "review failed");
    }
    metrics?.review(result, (clock.now() - at) / 1000);
    if (draining || status === TOO_LARGE) response.shouldKeepAlive = false;
    response.writeHead(status, { "content-type": type, "content-length": Buffer.byteLength(body) }).end(body);
  };

  const server = createServer(
    { keepAliveTimeout: KEEP_ALIVE_MS, headersTimeout: REQUEST_MS, requestTimeout: REQUEST_MS, minVersion: "TLSv1.2" },
    (request, response) => {
      handle(request, response).catch((error: unknown) => log.error({ err: error }, "answer failed"));
    },
  );
  server.maxConnections = MAX_CONNECTIONS;
  // Port scans, probes by TCP, clients that trust another authority.
  server.on("tlsClientError", (error) => log.debug({ reason: error.message }, "TLS handshake failed"));
  server.listen(where.port, where.host === "" ? undefined : where.host);
  try {
    await once(server, "listening");
  } catch (error) {
    throw listenError(error, "webhook", where);
  }
  return {
    port: (server.address() as AddressInfo).port,
    get ready() {
      return certified && !draining;
    },
    serve: (pair) => {
      server.setSecureContext({ ...pair, minVersion: "TLSv1.2" });
      certified = true;
    },
    drain: () => {
      draining = true;
      return drain(server, clock);
    },
  };
}

function resultOf({ refused, patch = [] }: Verdict, dryRun: boolean): Result {
  if (dryRun) return "dry-run";
  if (refused !== undefined) return "refused";
  return patch.length > 0 ? "injected" : "unchanged";
}

const connectionsOf = (server: Server): Promise<number> =>
  new Promise((resolve, reject) => {
    server.getConnections((error, count) => (error === null ? resolve(count) : reject(error)));
  });

async function drain(server: Server, clock: Clock): Promise<void> {
  const forever = new AbortController().signal;
  const began = clock.now();
  const passed = () => clock.now() - began;
  while (passed() < DRAIN_MS && (passed() < ENDPOINTS_MS || (await connectionsOf(server)) > 0)) {
    await sleep(clock, LOOK_MS, forever);
  }
  const closed = once(server, "close");
  server.close();
  server.closeIdleConnections();
  const cancel = clock.after(LAST_MS, () => server.closeAllConnections());
  await closed;
  cancel();
}
