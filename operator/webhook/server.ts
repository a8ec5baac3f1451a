import { once } from "node:events";
import type { IncomingMessage, ServerResponse } from "node:http";
import { createServer, type Server } from "node:https";
import type { AddressInfo } from "node:net";
import type { Logger } from "../../proxy/cli/log.ts";
import { listenError } from "../../proxy/cli/options.ts";
import { type Clock, sleep, systemClock } from "../kube/clock.ts";
import { type AdmitParts, admit } from "./admit.ts";
import { reviewEdit } from "./edit.ts";
import type { Result, WebhookMetrics } from "./metrics.ts";
import { type AdmissionAnswer, readReview, writeReview } from "./review.ts";

/** Paths in the webhook configuration: for pods, and for edits of policies. */
const PATHS = ["/inject", "/edits"];

/**
 * Idle timeout of the API server's connections (controller-runtime's IdleTimeout), so that the API server closes them
 * first.
 */
const KEEP_ALIVE_MS = 90 * 1000;
/** controller-runtime's ReadHeaderTimeout. The timeout of the API server itself is 5 s (`timeoutSeconds`). */
const REQUEST_MS = 32 * 1000;
/** Limit of a review. The API server accepts objects of at most 3 MiB. */
const MAX_REVIEW_BYTES = 4 * 1024 * 1024;
/** Limit of connections. An API server has at most 25 idle connections to a webhook. */
const MAX_CONNECTIONS = 1000;
/**
 * Times of the graceful shutdown. After SIGTERM the API server still uses its connections (kubernetes#127335), and
 * opens new ones until every node has the changed endpoints.
 */
const DRAIN_MS = 15 * 1000;
const ENDPOINTS_MS = 5 * 1000;
/** Polling interval of the number of connections. */
const DRAIN_POLL_MS = 100;
/** Time for answers in progress, after the drain. */
const LAST_MS = 5 * 1000;

/** A request that is rejected with a status and one line. */
class BadRequest extends Error {
  readonly status: number;
  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

const TOO_LARGE = 413;

/** Reads a body. @throws BadRequest if the body is too large; the rest of it is not read */
function readBody(request: IncomingMessage): Promise<string> {
  return new Promise((resolve, reject) => {
    const refuse = () => {
      request.pause();
      reject(new BadRequest(TOO_LARGE, `the body exceeds ${MAX_REVIEW_BYTES} bytes`));
    };
    if (Number(request.headers["content-length"] ?? 0) > MAX_REVIEW_BYTES) {
      refuse();
      return;
    }
    const chunks: Buffer[] = [];
    let size = 0;
    request.on("data", (chunk: Buffer) => {
      size += chunk.length;
      if (size > MAX_REVIEW_BYTES) refuse();
      else chunks.push(chunk);
    });
    request.on("end", () => resolve(Buffer.concat(chunks).toString()));
    request.on("error", reject);
  });
}

function check({ url, method, headers }: IncomingMessage): void {
  // The API server adds ?timeout=5s.
  if (!PATHS.includes((url ?? "").split("?")[0]!)) throw new BadRequest(404, `send reviews to ${PATHS.join(" or ")}`);
  if (method !== "POST") throw new BadRequest(405, "send reviews with POST");
  const type = headers["content-type"] ?? "";
  if (type.split(";")[0]!.trim() !== "application/json") {
    throw new BadRequest(400, "Content-Type must be application/json");
  }
}

/** HTTPS server of the webhook. `serve` sets its certificate. */
export interface Webhook {
  readonly port: number;
  /** Whether it has a certificate and is not shutting down. */
  readonly ready: boolean;
  /** Sets the certificate of new connections. */
  serve(pair: { cert: string; key: string }): void;
  /**
   * Graceful shutdown: answers, and closes each connection, for at most 15 s and until requests in progress have ended.
   */
  drain(): Promise<void>;
}

/** The parts of the operator that reviews use. */
export interface WebhookParts extends AdmitParts {
  log: Logger;
  metrics?: WebhookMetrics | undefined;
  clock?: Clock | undefined;
}

/** Starts the server. @throws UsageError if it cannot listen */
export async function makeWebhook(where: { host: string; port: number }, parts: WebhookParts): Promise<Webhook> {
  const { log, clock = systemClock } = parts;
  let draining = false;
  let certified = false;
  const server = createServer(
    { keepAliveTimeout: KEEP_ALIVE_MS, headersTimeout: REQUEST_MS, requestTimeout: REQUEST_MS, minVersion: "TLSv1.2" },
    (request, response) => {
      handle(parts, request, response, () => draining).catch((error: unknown) =>
        log.error({ err: error }, "answer failed"),
      );
    },
  );
  server.maxConnections = MAX_CONNECTIONS;
  // Port scans, TCP probes, clients that trust another authority.
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

/** Answer to a request, and its result for the metrics. `at`: time of the complete request. */
interface Reviewed {
  body: string;
  result: Result;
  at: number;
}

/** Reviews the pod or policy of a request. @throws BadRequest, or any error of the review */
async function review(parts: WebhookParts, request: IncomingMessage): Promise<Reviewed> {
  const { log, clock = systemClock } = parts;
  check(request);
  const text = await readBody(request);
  const at = clock.now();
  const read = readReview(text);
  if ("error" in read) throw new BadRequest(400, read.error);
  if (read.kind === "other") return { body: writeReview(read.uid, {}), result: "other", at };
  if (read.kind === "edit") return { body: writeReview(read.review.uid, reviewEdit(read.review)), result: "other", at };
  const { namespace, pod, dryRun, uid } = read.review;
  const admission = await admit(parts, read.review);
  const result = resultOf(admission, dryRun);
  const name = pod.metadata.name ?? pod.metadata.generateName;
  const level = result === "refused" ? "warn" : "debug";
  log[level]({ namespace, pod: name, result, reason: admission.refused?.message }, "pod reviewed");
  return { body: writeReview(uid, admission), result, at };
}

/** Answers a request, also if its review fails: the API server rejects the pod then. */
async function handle(
  parts: WebhookParts,
  request: IncomingMessage,
  response: ServerResponse,
  isDraining: () => boolean,
): Promise<void> {
  const { log, metrics, clock = systemClock } = parts;
  const came = clock.now();
  let status = 200;
  let type = "application/json";
  let reviewed: Reviewed;
  try {
    reviewed = await review(parts, request);
  } catch (error) {
    // The caller closed the connection, or did not complete its request in time.
    if (request.destroyed && !request.complete) return;
    type = "text/plain";
    if (error instanceof BadRequest) {
      status = error.status;
      reviewed = { body: `${error.message}\n`, result: "invalid", at: came };
      log.warn({ status, reason: error.message, from: request.socket.remoteAddress }, "bad request");
    } else {
      status = 500;
      reviewed = { body: `cannot review the pod now: ${(error as Error).message}\n`, result: "failed", at: came };
      log.error({ err: error }, "review failed");
    }
  }
  const { body, result, at } = reviewed;
  metrics?.review(result, (clock.now() - at) / 1000);
  if (isDraining() || status === TOO_LARGE) response.shouldKeepAlive = false;
  response.writeHead(status, { "content-type": type, "content-length": Buffer.byteLength(body) }).end(body);
}

function resultOf({ refused, patch = [] }: AdmissionAnswer, dryRun: boolean): Result {
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
    await sleep(clock, DRAIN_POLL_MS, forever);
  }
  const closed = once(server, "close");
  server.close();
  server.closeIdleConnections();
  const cancel = clock.after(LAST_MS, () => server.closeAllConnections());
  await closed;
  cancel();
}
