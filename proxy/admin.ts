import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { Metrics } from "./metrics.ts";
import { cidr, contains, parseAddress } from "./policy/cidr.ts";
import { parseAsked } from "./policy/explain.ts";
import type { Reload } from "./reload.ts";
import type { ProxyServer } from "./server.ts";
import type { Sources } from "./source.ts";
import { explainTarget, phraseFor } from "./tools/explain.ts";
import type { Verifier } from "./verify.ts";

/** What `/status` tells besides the server's own counts. */
export interface Status {
  version: string;
  listen: string;
  /** When the policy in force was loaded; null without one. */
  loadedAt: string | null;
}

/** What the admin port tells of. */
export interface AdminParts {
  proxy: ProxyServer;
  status: Status;
  reload: Reload;
  verifier: Verifier;
  sources: Sources;
  metrics: Metrics;
  onError: (error: unknown) => void;
}

const LOOPBACK = [cidr("127.0.0.0/8"), cidr("::1/128")];

function isLoopback(text: string): boolean {
  const address = parseAddress(text.replace(/^::ffff:(?=\d+\.)/, ""));
  return address !== null && LOOPBACK.some((network) => contains(network, address));
}

function send(response: ServerResponse, status: number, body: unknown): void {
  const text = typeof body === "string" ? `${body}\n` : `${JSON.stringify(body, null, 2)}\n`;
  const type = typeof body === "string" ? "text/plain; charset=utf-8" : "application/json";
  response.writeHead(status, { "content-type": type, "content-length": Buffer.byteLength(text) }).end(text);
}

async function answer(request: IncomingMessage, response: ServerResponse, parts: AdminParts): Promise<void> {
  const { proxy, status, reload, verifier, sources, metrics } = parts;
  const url = new URL(request.url ?? "/", "http://admin");
  const local = isLoopback(request.socket.remoteAddress ?? "");
  if (url.pathname === "/verify" && request.method === "POST") {
    if (!local) return send(response, 403, "loopback only");
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
      response.writeHead(200, headers).end(text);
      return;
    }
    case "/status": {
      const policy = proxy.policy && { name: proxy.policy.document.policy, hash: proxy.policy.hash };
      const ready = proxy.unready() === null;
      const { phase, counts } = proxy;
      const { version, listen, loadedAt } = status;
      const start = { version, listen, policyError: reload.error, loadedAt, ready, phase, policy };
      return send(response, 200, { ...start, ...counts, sources: sources.status(), verification: verifier.status() });
    }
    case "/explain": {
      // It resolves names: for people on this machine (or behind a port-forward) only.
      if (!local) return send(response, 403, "loopback only");
      const target = parseAsked(url.searchParams.get("target") ?? "");
      if (target === null) return send(response, 400, "target must be a URL, host:port or IP:port");
      if (proxy.policy === null) return send(response, 503, "no policy yet");
      const explanation = await explainTarget(proxy.policy, proxy.names, target);
      const phrase =
        explanation.code !== undefined ? { phrase: phraseFor(explanation, proxy.policy.document.policy) } : {};
      return send(response, 200, { ...explanation, ...phrase });
    }
    default:
      return send(response, 404, "not here: /livez /readyz /status /metrics /explain?target= and POST /verify");
  }
}

/** The admin port: health, state and explanations, on node:http since nothing here is hot. */
export function makeAdmin(parts: AdminParts): Server {
  return createServer((request, response) => {
    answer(request, response, parts).catch((error: unknown) => {
      parts.onError(error);
      response.destroy();
    });
  });
}
