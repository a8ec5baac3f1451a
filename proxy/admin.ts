import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { cidr, contains, parseAddress } from "./policy/cidr.ts";
import { parseAsked } from "./policy/explain.ts";
import type { ProxyServer } from "./server.ts";
import { explainTarget, phraseFor } from "./tools/explain.ts";

/** What `/status` tells besides the server's own counts. */
export interface Status {
  version: string;
  listen: string;
  /** Null until a first valid policy is there. */
  policyError: string | null;
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

async function answer(
  request: IncomingMessage,
  response: ServerResponse,
  proxy: ProxyServer,
  status: Status,
): Promise<void> {
  const url = new URL(request.url ?? "/", "http://admin");
  if (request.method !== "GET" && request.method !== "HEAD") return send(response, 405, "GET only");
  switch (url.pathname) {
    case "/livez":
      return send(response, 200, "ok");
    case "/readyz": {
      if (proxy.draining) return send(response, 503, "draining");
      return proxy.policy === null
        ? send(response, 503, `no policy: ${status.policyError}`)
        : send(response, 200, "ok");
    }
    case "/status": {
      const policy = proxy.policy && { name: proxy.policy.document.policy, hash: proxy.policy.hash };
      return send(response, 200, { ...status, policy, ...proxy.counts });
    }
    case "/explain": {
      // It resolves names: for people on this machine (or behind a port-forward) only.
      if (!isLoopback(request.socket.remoteAddress ?? "")) return send(response, 403, "loopback only");
      const target = parseAsked(url.searchParams.get("target") ?? "");
      if (target === null) return send(response, 400, "target must be a URL, host:port or IP:port");
      if (proxy.policy === null) return send(response, 503, "no policy yet");
      const explanation = await explainTarget(proxy.policy, proxy.names, target);
      const phrase =
        explanation.code !== undefined ? { phrase: phraseFor(explanation, proxy.policy.document.policy) } : {};
      return send(response, 200, { ...explanation, ...phrase });
    }
    default:
      return send(response, 404, "not here: /livez /readyz /status /explain?target=");
  }
}

/** The admin port: health, state and explanations, on node:http since nothing here is hot. */
export function makeAdmin(proxy: ProxyServer, status: Status, onError: (error: unknown) => void): Server {
  return createServer((request, response) => {
    answer(request, response, proxy, status).catch((error: unknown) => {
      onError(error);
      response.destroy();
    });
  });
}
