import assert from "node:assert/strict";
import { createServer, type IncomingMessage } from "node:http";
import { Duplex } from "node:stream";
import { test } from "node:test";
import fc from "fast-check";
import { type Head, HeadParser } from "../../proxy/http/head.ts";
import { parseAbsolute, parseAuthority } from "../../proxy/policy/target.ts";
import { runs, SHARE } from "../harness/runs.ts";

const RUNS = runs(8000);
const seed = Number(process.env.SEED ?? Date.now() & 0x7fffffff);

const GOOD = [
  "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n",
  "CONNECT [2001:db8::1]:443 HTTP/1.0\r\n\r\n",
  "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\nX: \t v \r\nEmpty:\r\n\r\n",
  "GET http://a.example:8080/x?y HTTP/1.1\r\nhost: b.example\r\nAccept: */*\r\n\r\n",
  "POST http://a.example/x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
  "POST http://a.example/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
];

const part = fc.oneof(
  fc.constantFrom(
    "CONNECT ",
    "GET ",
    "http://",
    "a.example",
    ":443",
    ":80",
    "/",
    " HTTP/1.1",
    "\r\n",
    "\r\n\r\n",
    "\n",
    "\r",
    "Host: ",
    "@",
  ),
  fc.constantFrom(
    "Content-Length: 5",
    "Transfer-Encoding: chunked",
    "[::1]",
    "127.0.0.1",
    "\0",
    " ",
    "\t",
    "#",
    "?",
    "\\",
    "%40",
    "b.example",
  ),
  fc.string({ maxLength: 8 }),
);

const authority = fc.array(part, { maxLength: 4 }).map((parts) => parts.join(""));
const wire = fc.oneof(
  fc.array(part, { maxLength: 12 }).map((parts) => parts.join("")),
  authority.map((text) => `GET http://${text} HTTP/1.1\r\nHost: x\r\n\r\n`),
  authority.map((text) => `CONNECT ${text} HTTP/1.1\r\nHost: x\r\n\r\n`),
  fc
    .tuple(fc.constantFrom(...GOOD), fc.nat(80), fc.string({ maxLength: 3 }))
    .map(([good, at, noise]) => good.slice(0, at) + noise + good.slice(at)),
  fc.tuple(fc.constantFrom(...GOOD), part, fc.nat(80)).map(([good, p, at]) => good.slice(0, at) + p + good.slice(at)),
);

/** The parsed head: null while it is incomplete or when it is refused. */
function ours(pieces: readonly Buffer[]): Head | null {
  const parser = new HeadParser();
  for (const piece of pieces) {
    const result = parser.feed(piece);
    if (result !== null) return "head" in result ? result.head : null;
  }
  return null;
}

interface Seen {
  method: string;
  url: string;
  host: string | undefined;
  length: string | undefined;
  coding: string | undefined;
}

/** Parses a head with `node:http`, as its servers do; null when it refuses it. */
function makeNodeReader() {
  let seen: Seen | null = null;
  const look = (request: IncomingMessage) => {
    const { method, url, headers } = request;
    const length = headers["content-length"];
    seen ??= { method: method!, url: url!, host: headers.host, length, coding: headers["transfer-encoding"] };
  };
  const server = createServer(look);
  server.on("connect", look);
  server.on("upgrade", look);
  server.on("checkContinue", look);
  server.on("clientError", () => {});
  return async (bytes: Buffer): Promise<Seen | null> => {
    seen = null;
    const stream = new Duplex({ read() {}, write: (_chunk, _encoding, done) => done() });
    stream.on("error", () => {});
    server.emit("connection", stream);
    stream.push(bytes);
    for (let turn = 0; turn < 3 && seen === null; turn++) await new Promise((resolve) => setImmediate(resolve));
    stream.destroy();
    return seen;
  };
}

/** The host of a target according to the URL standard. */
const urlHost = (url: string): string => new URL(url).hostname.replace(/^\[|\]$|\.$/g, "");

test(`fuzzed heads never throw and agree with node:http (SEED=${seed})`, async () => {
  const node = makeNodeReader();
  let both = 0;
  let targets = 0;
  await fc.assert(
    fc.asyncProperty(wire, fc.nat(100), async (text, cut) => {
      const bytes = Buffer.from(text, "latin1");
      const head = ours([bytes]);
      const at = Math.min(cut, bytes.length);
      const pieces = [bytes.subarray(0, at), bytes.subarray(at)].filter((piece) => piece.length > 0);
      assert.deepEqual(ours(pieces), head);
      if (head === null) return;
      const seen = await node(bytes);
      if (seen === null) return;
      both++;
      assert.equal(head.method, seen.method);
      assert.equal(head.target, seen.url);
      const ownHost = head.headers.find(([name]) => name.toLowerCase() === "host")?.[1];
      assert.equal(ownHost, seen.host);
      assert.equal(head.contentLength, seen.length === undefined ? undefined : Number(seen.length));
      assert.equal(head.chunked, seen.coding !== undefined);
      const connect = head.method === "CONNECT";
      const target = connect ? parseAuthority(head.target) : (parseAbsolute(head.target)?.target ?? null);
      if (target === null) return;
      targets++;
      const url = connect ? `http://${seen.url}/` : seen.url;
      assert.equal(urlHost(url), target.host);
      assert.equal(Number(new URL(url).port || 80), target.port);
      assert.equal(new URL(url).username, "");
    }),
    { numRuns: RUNS, seed, interruptAfterTimeLimit: 90_000, markInterruptAsFailure: true },
  );
  // Both parsers must accept many heads, and many of them must contain a target.
  assert.ok(both > 500 * SHARE && targets > 100 * SHARE, `${both} heads read by both, ${targets} with a target`);
});
