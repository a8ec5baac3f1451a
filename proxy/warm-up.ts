import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { closeSync, openSync } from "node:fs";
import { type AddressInfo, createServer, Socket } from "node:net";
import type { Logger } from "./cli/log.ts";
import { OPEN } from "./config/authentication.ts";
import type { Settings } from "./config/config.ts";
import { Credentials } from "./config/credentials.ts";
import { ProxyServer } from "./connections/server.ts";
import { Names } from "./dns/names.ts";
import { Gate } from "./egress/gate.ts";
import { Sources } from "./egress/source-address.ts";
import { Verifier } from "./egress/verifier.ts";
import { Metrics } from "./metrics.ts";
import { RecordWriter } from "./outcome/access-record.ts";
import { parseAddress } from "./policy/cidr.ts";
import { readDocument } from "./policy/document.ts";
import { compile } from "./policy/engine.ts";

const LOOPBACK = "127.0.0.1";
/** A name that no one can register (RFC 6761 §6.4). */
const HOST = "warm-up.invalid";
/** A few of each kind make the first client requests fast; more cost more than they save (docs/performance.md). */
const REQUESTS = 16;
const AT_ONCE = 4;
/** Time limit of the warm-up; a slow machine starts after fewer requests. */
const BUDGET_MS = 1000;

const never = (): never => {
  throw new Error("a warm-up verifies nothing");
};

/** A private proxy: a policy with one target, and its own records, metrics, names, gate and password. */
function makeServer(settings: Settings, log: Logger, far: number, password: string, writer: RecordWriter): ProxyServer {
  const credentials = new Credentials();
  credentials.add("PROXY_PASSWORD", password);
  const allow = [{ hosts: [HOST], cidrs: [`${LOOPBACK}/32`], ports: [far] }];
  const document = readDocument({ version: 1, policy: "warm/up", defaultAction: "Deny", allow });
  const metrics = new Metrics();
  const server = new ProxyServer({
    settings,
    credentials,
    names: new Names({ servers: [], timeoutSeconds: 1, hosts: new Map([[HOST, [parseAddress(LOOPBACK)!]]]) }),
    gate: new Gate(new Sources([]), new Verifier({ ask: never, log, onWrong: never, onRemoved: never })),
    onRecord: (record, ms) => metrics.count(record, ms),
    writer,
    readiness: "policy",
    bufferBytes: Number.POSITIVE_INFINITY,
    onAcceptError: (error) => log.warn({ reason: error.message }, "the warm-up cannot accept a connection"),
  });
  const policy = compile(document, { allowCIDRs: [`${LOOPBACK}/32`] });
  server.install(policy, { ...settings, accessLog: "all" }, credentials, { ...OPEN, mode: "Basic" });
  return server;
}

/** The requests of a round: a tunnel twice, a denied name, a plain request. */
function makeRequests(far: number, password: string): string[] {
  const fields = (host: string) =>
    `Host: ${host}:${far}\r\nUser-Agent: outrider\r\n` +
    `Proxy-Authorization: Basic ${Buffer.from(`:${password}`).toString("base64")}\r\n`;
  const tunnel = (host: string) => `CONNECT ${host}:${far} HTTP/1.1\r\n${fields(host)}\r\n`;
  const plain = `POST http://${HOST}:${far}/ HTTP/1.1\r\n${fields(HOST)}Connection: close\r\nContent-Length: 2\r\n\r\nhi`;
  return [tunnel(HOST), tunnel(HOST), tunnel(`not.${HOST}`), plain];
}

/** Sends one request and waits for its end or for the time limit. Rejects when it is not answered. */
function request(port: number, wire: string, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket = new Socket({ signal }).connect(port, LOOPBACK);
    socket.once("data", () => {
      if (wire.startsWith("CONNECT")) socket.write("what a sender says");
    });
    socket.on("data", () => {});
    // The connection is closed next.
    socket.on("error", () => {});
    socket.on("close", () => {
      if (socket.bytesRead > 0 || signal.aborted) resolve();
      else reject(new Error("no answer on loopback"));
    });
    socket.write(wire);
  });
}

function answer(socket: Socket): void {
  socket.on("error", () => socket.destroy());
  socket.on("data", () => socket.end("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"));
}

/** Sends the requests; returns how many fitted into the time limit. */
async function makeAll(server: ProxyServer, requests: readonly string[]): Promise<number> {
  const { port } = await server.listen({ host: LOOPBACK, port: 0, reusePort: false });
  const signal = AbortSignal.timeout(BUDGET_MS);
  let made = 0;
  const lane = async () => {
    while (made < REQUESTS && !signal.aborted) await request(port, requests[made++ % requests.length]!, signal);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, lane));
  return made;
}

/**
 * Lets V8 compile the data path before the first client connects: sends some requests through a private
 * proxy to a private receiver. Both use loopback, with random ports and a password of their own, and are closed when
 * this resolves. Records, metrics and the serving policy do not show these requests. Never fails: without loopback the
 * first client requests are slower.
 */
export async function warmUp(settings: Settings, log: Logger): Promise<void> {
  const began = performance.now();
  const far = createServer(answer);
  const password = randomBytes(16).toString("hex");
  let fd: number | undefined;
  let writer: RecordWriter | undefined;
  let server: ProxyServer | undefined;
  try {
    fd = openSync("/dev/null", "w");
    writer = new RecordWriter(fd);
    far.listen(0, LOOPBACK);
    await once(far, "listening");
    const { port } = far.address() as AddressInfo;
    server = makeServer(settings, log, port, password, writer);
    const requests = await makeAll(server, makeRequests(port, password));
    log.debug({ requests, ms: Math.round(performance.now() - began) }, "warmed up");
  } catch (error) {
    log.warn({ reason: (error as Error).message }, "warm-up failed: the first requests are slower");
  } finally {
    await server?.close();
    far.close();
    await writer?.close();
    if (fd !== undefined) closeSync(fd);
  }
}
