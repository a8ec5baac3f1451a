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
  { name: "listen", value: "IP:PORT", fallback: ":8080", help: "address for callers; port 0 picks a free port" },
  { name: "help", help: "print this help" },
];

const HELP = `Usage: outrider echo [--listen IP:PORT]

Answers every caller with its address. /ip answers with text. Other paths answer with JSON, which also has the headers
of the request, and the addresses that X-Forwarded-For and similar headers claim.

${optionHelp(OPTIONS)}`;

/** Headers with an address, who writes each of them, and how to interpret it. Only the socket's address is certain. */
const CLAIMS: Readonly<Record<string, string>> = {
  "x-forwarded-for": "each hop appends the address of its caller; the left end is untrusted text of the first caller",
  "x-original-forwarded-for": "the caller's own X-Forwarded-For, when ingress-nginx replaced that header",
  "x-real-ip": "address of the caller, as the nearest reverse proxy sees it",
  "cf-connecting-ip": "address of the caller, as Cloudflare sees it; meaningless for requests on other paths",
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

/** `outrider echo`: runs until SIGTERM or SIGINT and returns the exit status. @throws UsageError */
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
