import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { Socket } from "node:net";
import { refusalOf } from "./cli/local-request.ts";
import { makePage } from "./cli/page.ts";
import type { Reload } from "./config/reload.ts";
import type { ProxyServer } from "./connections/server.ts";
import { explainTarget, phraseFor } from "./egress/explain.ts";
import type { Sources } from "./egress/source-address.ts";
import type { Verifier } from "./egress/verifier.ts";
import type { Metrics } from "./metrics.ts";
import { countBound } from "./outcome/bounds.ts";
import type { Minutes } from "./outcome/minutes.ts";
import type { Decisions } from "./pages/decisions.ts";
import { HTML } from "./pages/html.ts";
import { parseAsked, viewNamed } from "./policy/explain.ts";
import type { TlsInstaller } from "./tls-installer.ts";

/** Fields of `/status` besides the server's own counts. */
export interface Status {
  version: string;
  listen: string;
  /** When the policy in force was loaded; null without one. */
  loadedAt: string | null;
}

/** The parts of the proxy that the admin port reports on. */
interface AdminParts {
  proxy: ProxyServer;
  status: Status;
  reload: Reload;
  verifier: Verifier;
  sources: Sources;
  metrics: Metrics;
  minutes: Minutes;
  decisions: Decisions;
  /** Null: there is no TLS port. */
  tls: TlsInstaller | null;
  onError: (error: unknown) => void;
}

/**
 * Limit of concurrent connections. Kubelet, Prometheus and a few people need a handful; each takes a file descriptor.
 */
const MAX_CONNECTIONS = 64;
/** Milliseconds from a connection, or the first byte of a further request, to the end of its head. */
const HEAD_MS = 5000;
/** Milliseconds to the end of the request body. No handler reads it. */
const REQUEST_MS = 10_000;
/** Milliseconds in which a client must read its answer. */
const ANSWER_MS = 10_000;
/** How often the times are checked, in milliseconds. */
const CHECK_MS = 1000;
/** Limit of concurrent `/explain` requests that resolve names. */
const MAX_EXPLAINS = 8;

/** Headers of answers besides the page: no browser caches them, guesses their type, or gives them to other origins. */
const GUARDS = {
  "cache-control": "no-store",
  "x-content-type-options": "nosniff",
  "cross-origin-resource-policy": "same-origin",
};

function send(response: ServerResponse, status: number, body: unknown): void {
  const text = typeof body === "string" ? `${body}\n` : `${JSON.stringify(body, null, 2)}\n`;
  const type = typeof body === "string" ? "text/plain; charset=utf-8" : "application/json";
  response.writeHead(status, { ...GUARDS, "content-type": type, "content-length": Buffer.byteLength(text) }).end(text);
}

/** The URL of a request target in origin or absolute form (RFC 9112 §3.2); null: it has neither form. */
function urlOf(target: string): URL | null {
  if (target.startsWith("//")) return null;
  return URL.parse(target.startsWith("/") ? `http://admin${target}` : target);
}

/** Paths for people on this machine: they have an effect (DNS queries, requests to echo URLs), or show hosts and clients. */
const LOCAL: ReadonlySet<string> = new Set(["/", "/summary", "/decisions", "/explain", "/verify"]);

const page = makePage(HTML);

/** Number of `/explain` requests that wait for names. */
interface Load {
  explaining: number;
}

/** The answer of `/status`. */
function statusOf({ proxy, status, reload, verifier, sources, tls }: AdminParts): object {
  const policy = proxy.policy && { name: proxy.policy.document.policy, hash: proxy.policy.hash };
  const ready = proxy.unready() === null;
  const { phase, counts } = proxy;
  const { version, listen, loadedAt } = status;
  return {
    ...{ version, listen, policyError: reload.error, loadedAt, ready, phase, policy },
    tls: tls?.status() ?? null,
    ...counts,
    sources: sources.status(),
    verification: verifier.status(),
  };
}

/** The answer of `/summary`: all that the page shows besides decisions. */
function summaryOf(parts: AdminParts): object {
  const { proxy, verifier, metrics, minutes, decisions } = parts;
  return {
    status: statusOf(parts),
    unready: proxy.unready(),
    startedAt: new Date(performance.timeOrigin).toISOString(),
    at: new Date().toISOString(),
    clients: proxy.policy?.views == null ? null : proxy.policy.views.size,
    totals: metrics.totals(),
    minutes: minutes.list(),
    readers: decisions.readers,
    echoAnswers: verifier.echoAnswers(),
  };
}

async function answer(
  request: IncomingMessage,
  response: ServerResponse,
  parts: AdminParts,
  load: Load,
): Promise<void> {
  const { proxy, reload, verifier, metrics, decisions } = parts;
  const target = request.url ?? "/";
  const url = urlOf(target);
  if (url === null) return send(response, 400, "the request target is not a path");
  const host = target.startsWith("/") ? (request.headers.host ?? "") : url.host;
  const refusal = LOCAL.has(url.pathname) ? refusalOf(request, host) : null;
  if (refusal !== null) return send(response, 403, refusal);
  if (url.pathname === "/verify" && request.method === "POST") {
    verifier.checkNow();
    return send(response, 202, "asking the echo URLs; see verification in /status");
  }
  if (request.method !== "GET" && request.method !== "HEAD") return send(response, 405, "GET only");
  switch (url.pathname) {
    case "/livez":
      return send(response, 200, "ok");
    case "/readyz": {
      const unready = proxy.unready();
      if (unready === null) return send(response, 200, "ok");
      return send(response, 503, proxy.policy === null ? `no policy: ${reload.error}` : unready);
    }
    case "/metrics": {
      const text = await metrics.registry.metrics();
      const headers = { "content-type": metrics.registry.contentType, "content-length": Buffer.byteLength(text) };
      response.writeHead(200, { ...GUARDS, ...headers }).end(text);
      return;
    }
    case "/status":
      return send(response, 200, statusOf(parts));
    case "/":
      response.writeHead(200, page.headers).end(page.body);
      return;
    case "/summary":
      return send(response, 200, summaryOf(parts));
    case "/decisions":
      if (decisions.isFull()) return send(response, 503, "too many readers of live decisions; close another page");
      return decisions.stream(response);
    case "/explain": {
      const asked = parseAsked(url.searchParams.get("target") ?? "");
      if (asked === null) return send(response, 400, "target must be a URL, host:port or IP:port");
      if (proxy.policy === null) return send(response, 503, "no policy yet");
      const view = viewNamed(proxy.policy, url.searchParams.get("client") ?? undefined);
      if ("error" in view) return send(response, 400, `client: ${view.error}`);
      if (load.explaining >= MAX_EXPLAINS) return send(response, 503, "too many explanations at once");
      load.explaining++;
      try {
        const explanation = await explainTarget(view, proxy.names, asked);
        const phrase = explanation.code !== undefined ? { phrase: phraseFor(explanation, view.document.policy) } : {};
        const client = view.entry === null ? {} : { client: view.entry };
        return send(response, 200, { ...explanation, ...client, ...phrase });
      } finally {
        load.explaining--;
      }
    }
    default:
      return send(
        response,
        404,
        "not found; the paths are / /livez /readyz /status /summary /metrics /decisions /explain?target= and POST /verify",
      );
  }
}

/**
 * The connection to close in favour of a new one: the oldest of the source address that has most. A client that holds
 * connections open loses these, so that probes get through.
 */
function surplus(connections: ReadonlySet<Socket>): Socket {
  const counts = new Map<string, number>();
  for (const { remoteAddress = "" } of connections) counts.set(remoteAddress, (counts.get(remoteAddress) ?? 0) + 1);
  const most = Math.max(...counts.values());
  return [...connections].find(({ remoteAddress = "" }) => counts.get(remoteAddress) === most)!;
}

/** Closes connections that are too many or too slow, or that send a request before they read the last answer. */
function limitConnections(server: Server): void {
  const connections = new Set<Socket>();
  const end = (socket: Socket) => {
    countBound("admin-connections");
    socket.destroy();
  };
  server.on("connection", (socket: Socket) => {
    connections.add(socket);
    socket.once("close", () => connections.delete(socket));
    if (connections.size <= MAX_CONNECTIONS) return;
    const victim = surplus(connections);
    connections.delete(victim);
    end(victim);
  });
  server.on("clientError", (error: NodeJS.ErrnoException, duplex) => {
    const socket = duplex as Socket;
    if (error.code === "ERR_HTTP_REQUEST_TIMEOUT") return end(socket);
    if (socket.writable) socket.write("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
    socket.destroySoon();
  });
  const busy = new WeakSet<Socket>();
  server.on("request", ({ socket }, response) => {
    if (busy.has(socket)) return end(socket);
    busy.add(socket);
    response.once("finish", () => busy.delete(socket));
  });
}

/**
 * The admin port: health, state and explanations. It uses node:http, because none of these paths is
 * performance-critical.
 */
export function makeAdmin(parts: AdminParts): Server {
  const load: Load = { explaining: 0 };
  const options = {
    headersTimeout: HEAD_MS,
    requestTimeout: REQUEST_MS,
    connectionsCheckingInterval: CHECK_MS,
  };
  const server = createServer(options);
  limitConnections(server);
  server.on("request", (request, response) => {
    if (request.socket.destroyed) return;
    answer(request, response, parts, load)
      .catch((error: unknown) => {
        parts.onError(error);
        response.destroy();
      })
      .finally(() => {
        const timer = setTimeout(() => {
          countBound("admin-connections");
          request.socket.destroy();
        }, ANSWER_MS);
        response.once("close", () => clearTimeout(timer));
        if (response.closed) clearTimeout(timer);
      });
  });
  return server;
}
