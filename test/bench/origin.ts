import { createSocket } from "node:dgram";
import { createServer, type Socket } from "node:net";
import { type Counts, DNS_PORT, FRAME_HEAD_BYTES, HTTP_ANSWER_BYTES, HTTP_PORT, RAW_PORT } from "./wire.ts";

/**
 * The targets of the proxies, in one process: a raw port that answers frames, an HTTP port, and the DNS server. Sends
 * "ready" to its parent, and answers any message with the numbers of DNS queries and connections so far.
 */

const CHUNK_BYTES = 1024 * 1024;
const BACKLOG = 4096;
const DNS_TTL_SECONDS = 60;
const zeros = Buffer.alloc(CHUNK_BYTES);

type RawSocket = Socket & { head: Buffer | null; up: number; down: number };

/** Sends the bytes that a frame requests; large answers wait for the socket to drain. */
function sendDown(socket: RawSocket): void {
  while (socket.down > 0) {
    const bytes = Math.min(socket.down, CHUNK_BYTES);
    socket.down -= bytes;
    if (!socket.write(bytes === CHUNK_BYTES ? zeros : zeros.subarray(0, bytes))) return;
  }
}

/** A frame: bytes up (with this head) and bytes down as two numbers, then the rest of the bytes up. */
function onRaw(this: RawSocket, chunk: Buffer): void {
  let rest = this.head === null ? chunk : Buffer.concat([this.head, chunk]);
  this.head = null;
  while (rest.length > 0) {
    if (this.up === 0) {
      if (rest.length < FRAME_HEAD_BYTES) {
        this.head = rest;
        return;
      }
      this.up = rest.readUInt32BE(0);
      this.down = rest.readUInt32BE(4);
    }
    const taken = Math.min(this.up, rest.length);
    this.up -= taken;
    rest = rest.subarray(taken);
    if (this.up === 0) sendDown(this);
  }
}

let connections = 0;
const raw = createServer({ noDelay: true }, (socket) => {
  connections++;
  const state = Object.assign(socket, { head: null, up: 0, down: 0 }) as RawSocket;
  state.on("data", onRaw);
  state.on("drain", () => sendDown(state));
  state.on("error", () => state.destroy());
});

const BODY = "x".repeat(HTTP_ANSWER_BYTES);
const answer = (connection: string) =>
  Buffer.from(`HTTP/1.1 200 OK\r\nContent-Length: ${BODY.length}\r\nConnection: ${connection}\r\n\r\n${BODY}`);
const KEPT = answer("keep-alive");
const CLOSED = answer("close");

const http = createServer({ noDelay: true }, (socket) => {
  connections++;
  let text = "";
  socket.on("error", () => socket.destroy());
  socket.on("data", (chunk) => {
    text += chunk.toString("latin1");
    for (let end = text.indexOf("\r\n\r\n"); end >= 0; end = text.indexOf("\r\n\r\n")) {
      const head = text.slice(0, end).toLowerCase();
      const whole = end + 4 + Number(/\ncontent-length: *(\d+)/.exec(head)?.[1] ?? 0);
      if (text.length < whole) return;
      text = text.slice(whole);
      if (/\nconnection: *close/.test(head) || head.includes(" http/1.0\r\n")) socket.end(CLOSED);
      else socket.write(KEPT);
    }
  });
});

let queries = 0;
const dns = createSocket("udp4");
/** Every name is 127.0.0.1 and has no IPv6 address. */
dns.on("message", (query, from) => {
  queries++;
  let end = 12;
  while (query[end] !== 0) end += query[end]! + 1;
  const isA = query.readUInt16BE(end + 1) === 1;
  const head = Buffer.from(query.subarray(0, end + 5));
  head.writeUInt16BE(0x8180, 2);
  for (const [i, count] of [1, isA ? 1 : 0, 0, 0].entries()) head.writeUInt16BE(count, 4 + 2 * i);
  const record = Buffer.from([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, DNS_TTL_SECONDS, 0, 4, 127, 0, 0, 1]);
  dns.send(isA ? Buffer.concat([head, record]) : head, from.port, from.address);
});

process.on("message", () => process.send!({ queries, connections } satisfies Counts));
process.on("disconnect", () => process.exit());
await Promise.all([
  new Promise<void>((resolve) => raw.listen({ host: "127.0.0.1", port: RAW_PORT, backlog: BACKLOG }, resolve)),
  new Promise<void>((resolve) => http.listen({ host: "127.0.0.1", port: HTTP_PORT, backlog: BACKLOG }, resolve)),
  new Promise<void>((resolve) => dns.bind(DNS_PORT, "127.0.0.1", resolve)),
]);
process.send!("ready");
