import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import {
  formatHostPort,
  ipPort,
  listenError,
  noArguments,
  type Option,
  optionHelp,
  readOptions,
} from "../cli/options.ts";

const OPTIONS: readonly Option[] = [
  { name: "listen", value: "IP:PORT", fallback: ":8080", help: "where callers connect; port 0 picks a free one" },
  { name: "help", help: "print this" },
];

const HELP = `Usage: outrider echo [--listen IP:PORT]

Answers every caller with the address that it comes from: /ip as text, everything else as JSON with the request's
headers, and what X-Forwarded-For and its kin claim.

${optionHelp(OPTIONS)}`;

/** Who writes each header, and what to make of it. The socket's address is the only fact. */
const CLAIMS: Readonly<Record<string, string>> = {
  "x-forwarded-for":
    "each hop appends the address that it was called from; the left end is whatever the first caller sent",
  "x-original-forwarded-for": "ingress-nginx keeps the caller's own X-Forwarded-For here when it replaces it",
  "x-real-ip": "the nearest reverse proxy's view of its caller, one address",
  "cf-connecting-ip": "Cloudflare's view of its caller; means nothing when the request did not come through it",
};

function explainHeaders(request: IncomingMessage, ip: string) {
  return Object.fromEntries(
    Object.entries(CLAIMS).map(([name, meaning]) => {
      const value = request.headers[name];
      const text = Array.isArray(value) ? value.join(", ") : value;
      if (text === undefined) return [name, { present: false, meaning }];
      return [name, { present: true, claims: text, sameAsSocket: text.split(",").at(-1)?.trim() === ip, meaning }];
    }),
  );
}

async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
  let bodyBytes = 0;
  for await (const chunk of request) bodyBytes += (chunk as Buffer).length;
  const ip = (request.socket.remoteAddress ?? "").replace(/^::ffff:(?=\d+\.)/, "");
  const path = (request.url ?? "/").replace(/^http:\/\/[^/?]*/i, "").replace(/\?.*$/s, "") || "/";
  const text = path === "/ip" && !/\bapplication\/json\b/.test(request.headers.accept ?? "");
  const { method, headers } = request;
  const seen = {
    ip,
    port: request.socket.remotePort,
    method,
    path,
    bodyBytes,
    headers,
    explain: explainHeaders(request, ip),
  };
  const body = text ? `${ip}\n` : `${JSON.stringify(seen, null, 2)}\n`;
  const type = text ? "text/plain; charset=utf-8" : "application/json";
  response.writeHead(200, {
    "content-type": type,
    "content-length": Buffer.byteLength(body),
    "cache-control": "no-store",
  });
  response.end(request.method === "HEAD" ? undefined : body);
}

/** Starts an echo server; an empty host means all addresses. @throws the listen error */
export async function startEcho(where: { host: string; port: number }) {
  const server = createServer((request, response) => {
    answer(request, response).catch(() => response.destroy());
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(where, resolve);
  });
  const { address, port } = server.address() as AddressInfo;
  const close = () =>
    new Promise<void>((resolve) => {
      server.close(() => resolve());
      server.closeAllConnections();
    });
  return { address, port, close };
}

/** `outrider echo`: runs until SIGTERM or SIGINT. Exit status. @throws UsageError */
export async function runEcho(argv: readonly string[]): Promise<number> {
  const { values, positionals } = readOptions(OPTIONS, argv, process.env);
  if (values.has("help")) {
    console.log(HELP);
    return 0;
  }
  noArguments(positionals);
  const where = ipPort(values, "listen", ":8080");
  const echo = await startEcho(where).catch((error: unknown) => {
    throw listenError(error, "listen", where);
  });
  console.log(`echo listens on http://${formatHostPort(echo.address, echo.port)}`);
  await new Promise((resolve) => {
    process.once("SIGTERM", resolve);
    process.once("SIGINT", resolve);
  });
  await echo.close();
  return 0;
}
