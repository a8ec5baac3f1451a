import { once } from "node:events";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { refusalOf } from "../../proxy/cli/local-request.ts";
import { listenError } from "../../proxy/cli/options.ts";
import { makePage, type Page } from "../../proxy/cli/page.ts";
import { HTML } from "./html.ts";
import type { PolicyAnswers } from "./policies.ts";

/** Limit of connections. A browser opens up to six. */
const MAX_CONNECTIONS = 32;
/** Milliseconds until the head of a request, and the whole request, must have arrived. No handler reads a body. */
const HEAD_MS = 5000;
const REQUEST_MS = 10_000;
/** Milliseconds until a connection without traffic is closed, also one whose client does not read its answer. */
const IDLE_MS = 20_000;
/** Characters of a query: two names of at most 253. */
const MAX_TARGET = 1000;

const PATHS = "/ /policies.json /policy.json?namespace=NAMESPACE&name=NAME";

function send(response: ServerResponse, status: number, body: unknown): void {
  const isText = typeof body === "string";
  const text = isText ? `${body}\n` : JSON.stringify(body);
  response.writeHead(status, {
    "content-type": isText ? "text/plain; charset=utf-8" : "application/json",
    "content-length": Buffer.byteLength(text),
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
  });
  response.end(text);
}

async function answer(
  request: IncomingMessage,
  response: ServerResponse,
  answers: PolicyAnswers,
  page: Page,
): Promise<void> {
  const { url: target = "", method, headers } = request;
  const refusal = refusalOf(request, headers.host ?? "");
  if (refusal !== null) return send(response, 403, refusal);
  if (method !== "GET" && method !== "HEAD") return send(response, 405, "GET only");
  if (!target.startsWith("/") || target.startsWith("//") || target.length > MAX_TARGET) {
    return send(response, 400, `the request target is not a path of at most ${MAX_TARGET} characters`);
  }
  const { pathname, searchParams } = new URL(target, "http://localhost");
  switch (pathname) {
    case "/":
      response.writeHead(200, page.headers).end(page.body);
      return;
    case "/policies.json":
      return send(response, 200, answers.list(Date.now()));
    case "/policy.json": {
      const key = `${searchParams.get("namespace") ?? ""}/${searchParams.get("name") ?? ""}`;
      const detail = await answers.detail(key, Date.now());
      return detail === undefined
        ? send(response, 404, `there is no policy ${key}, or this operator does not watch its namespace`)
        : send(response, 200, detail);
    }
    default:
      return send(response, 404, `not found; the paths are ${PATHS}`);
  }
}

/**
 * Serves the page about all policies. It has no password, so only callers on this machine, or behind a port-forward, get
 * answers, and no request changes anything. @throws UsageError if it cannot listen
 */
export async function servePolicyPage(
  where: { host: string; port: number },
  answers: PolicyAnswers,
  onError: (error: unknown) => void,
): Promise<Server> {
  const page = makePage(HTML);
  const server = createServer({ headersTimeout: HEAD_MS, requestTimeout: REQUEST_MS }, (request, response) => {
    answer(request, response, answers, page).catch((error: unknown) => {
      onError(error);
      response.destroy();
    });
  });
  server.maxConnections = MAX_CONNECTIONS;
  server.setTimeout(IDLE_MS);
  server.listen(where.port, where.host);
  try {
    await once(server, "listening");
  } catch (error) {
    throw listenError(error, "page", where);
  }
  return server;
}
