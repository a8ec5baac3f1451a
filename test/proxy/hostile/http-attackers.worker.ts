import { connect, createServer, type Socket } from "node:net";
import { parentPort, workerData } from "node:worker_threads";

/**
 * Hostile receivers and clients, in their own thread so that they do not delay the measured client. The receiver
 * answers by path at full speed. The clients of one kind send or read without a pause until the next kind.
 */

const { proxyPort, clients } = workerData as { proxyPort: number; clients: number };

const BLOCK_BYTES = 65_536;
const block = (unit: string): Buffer => Buffer.from(unit.repeat(Math.ceil(BLOCK_BYTES / unit.length)), "latin1");

const FIELDS = "a:\r\n".repeat(8_800);
const TOKENS = `Connection: ${"b,".repeat(15_000)}c\r\n`;
const TRAILERS = "t:\r\n".repeat(4_000);

/** Bytes of the receiver: once after each request head, and then repeated until the connection ends. */
const ANSWERS: Readonly<Record<string, { once: string; endless?: Buffer }>> = {
  empty: { once: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" },
  bulk: { once: "HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n", endless: block("x") },
  "tiny-chunks": { once: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", endless: block("1\r\nx\r\n") },
  "interim-heads": { once: "", endless: Buffer.from(`HTTP/1.1 103 Early Hints\r\n${TOKENS}${FIELDS}\r\n`) },
  "short-interim-heads": { once: "", endless: block("HTTP/1.1 103 Early Hints\r\n\r\n") },
  fields: { once: `HTTP/1.1 200 OK\r\nContent-Length: 0\r\n${TOKENS}${FIELDS}\r\n` },
  "white-space": { once: `HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: a${" ".repeat(60_000)}b\r\n\r\n` },
  trailers: { once: `HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n${TRAILERS}\r\n` },
};

/** Bytes of a hostile client: once, and then repeated. */
const REQUESTS: Readonly<Record<string, { path: string; head: string; endless?: Buffer }>> = {
  "tiny-chunks-sent": { path: "/sink", head: "Transfer-Encoding: chunked\r\n", endless: block("1\r\nx\r\n") },
  "fields-sent": { path: "/empty", head: "a:\r\n".repeat(3_900) },
  "white-space-sent": { path: "/empty", head: `X: a${" ".repeat(16_000)}b\r\n` },
};

function pump(socket: Socket, bytes: Buffer): void {
  const more = () => {
    // Two writes are in flight, so that the other side never waits.
    while (!socket.destroyed && socket.writableLength < 2 * BLOCK_BYTES) socket.write(bytes);
  };
  socket.on("drain", more);
  more();
}

const receiver = createServer((socket) => {
  socket.on("error", () => socket.destroy());
  let text = "";
  socket.on("data", (chunk) => {
    // The body of an endless upload is not kept.
    if (text.startsWith("POST /sink")) return;
    text += chunk.toString("latin1");
    if (!text.includes("\r\n\r\n")) return;
    const answer = ANSWERS[/^(?:GET|POST) \/(\S+)/.exec(text)?.[1] ?? ""];
    if (!text.startsWith("POST /sink")) text = "";
    if (answer === undefined) return;
    if (answer.once !== "") socket.write(answer.once, "latin1");
    if (answer.endless !== undefined) pump(socket, answer.endless);
  });
});

let kind = "";
const open = new Set<Socket>();

/** One client of the current kind; another one replaces it when its connection ends. */
function start(port: number, mine: string): void {
  if (kind !== mine) return;
  const socket = connect(proxyPort, "127.0.0.1");
  open.add(socket);
  socket.on("error", () => socket.destroy());
  socket.on("close", () => {
    open.delete(socket);
    setImmediate(() => start(port, mine));
  });
  const sent = REQUESTS[mine];
  const method = sent === undefined ? "GET" : "POST";
  const path = sent?.path ?? `/${mine}`;
  socket.write(`${method} http://127.0.0.1:${port}${path} HTTP/1.1\r\nHost: x\r\n${sent?.head ?? ""}\r\n`, "latin1");
  if (sent?.endless !== undefined) pump(socket, sent.endless);
  // A complete answer ends one attack, and the next one begins immediately.
  socket.on("data", (chunk) => {
    if (mine !== "bulk" && mine !== "tiny-chunks" && chunk.subarray(-4).toString("latin1") === "\r\n\r\n")
      socket.destroy();
  });
  socket.on("end", () => socket.destroy());
}

receiver.listen(0, "127.0.0.1", () => {
  const { port } = receiver.address() as { port: number };
  parentPort!.on("message", (next: string) => {
    kind = next;
    for (const socket of open) socket.resetAndDestroy();
    if (next !== "") for (let i = 0; i < clients; i++) start(port, next);
    parentPort!.postMessage(next);
  });
  parentPort!.postMessage("ready");
});
