import { ipv4, tlv, v1, v2 } from "../proxy/proxy-header-encoder.ts";
import type { Asked } from "./answers.ts";
import type { Rng } from "./seed.ts";
import { type Expected, Wire } from "./wire.ts";
import {
  type Choice,
  type ClientKind,
  cell,
  HONEST,
  marked,
  OWN_PASSWORDS,
  PASSWORD,
  type Plan,
  PORT,
  planOf,
  proxiedSource,
  type ReceiverKind,
  receiverAddress,
  receiverNumber,
} from "./world.ts";

/** The program of a process of hostile clients. The parent starts it with `fork`; it ends when the parent ends. */

/** Messages of the parent: a round of connections, or the order to open no further connection. */
export type ClientsOrder =
  | {
      round: { first: number; last: number; step: number };
      seed: number;
      choice: Choice;
      port: number;
      adminPort: number;
      forbidden: string[];
      concurrency: number;
      /** Whether some clients wait for the time limits of the proxy, which are up to 15 s. */
      patient: boolean;
    }
  | { stop: true };

/** Messages to the parent: results in batches, and the end of a round. */
export interface ClientsReport {
  /** The client's address and port, the number of the connection, and the access records that it must have. */
  results: { source: string; number: number; expected: Expected }[];
  violations: { number: number; category: string; detail: string }[];
  open: number;
  finished: boolean;
}

type Round = Extract<ClientsOrder, { round: object }>;

const REPORT_MS = 100;
/** Numbers of requests of one connection. */
const REQUESTS_PER_CONNECTION = 8;
const CONNECT_MS = 10_000;
/** Longer than any time limit of the proxy under test. */
const ANSWER_MS = 12_000;
const HEAD_TIMEOUT_MS = 15_000;

/** The connection, plan and random numbers that a client kind uses. */
interface Scene {
  round: Round;
  plan: Plan;
  rng: Rng;
  wire: Wire;
  /** The access records name this client address instead of that of the connection. */
  named: (source: string) => void;
  violation: (category: string, detail: string) => void;
}

interface Request {
  asked: Asked;
  head: string;
  body: Buffer;
  /** Whether the receiver is honest and its name does not depend on DNS: the delivery must succeed. */
  honest: boolean;
}

const basic = (user: string, password: string) =>
  `Proxy-Authorization: Basic ${Buffer.from(`${user}:${password}`).toString("base64")}\r\n`;

const isHonest = (kind: ReceiverKind): boolean => HONEST.some((honest) => honest === kind);

function authorityOf({ plan, rng }: Scene, receiver: ReceiverKind): string {
  const number = receiverNumber(receiver);
  if (plan.name === "ip") return `${receiverAddress(number)}:${PORT}`;
  if (plan.name === "hosts") return `${receiver}.hosts.test:${PORT}`;
  // Half of the names are used once. The others repeat, so that cached answers are used.
  const unique = rng.oneIn(2) ? `i${plan.number}` : `s${plan.number % 20}`;
  return `r${number}.${unique}.${plan.name.slice(4)}.test:${PORT}`;
}

/** The head and body of request `nth` of a connection. */
function makeRequest(scene: Scene, nth: number, options: { connect?: boolean; receiver?: ReceiverKind } = {}): Request {
  const { plan, rng } = scene;
  const receiver = options.receiver ?? plan.receiver;
  const connect = options.connect ?? (receiver === "echo" || rng.oneIn(2));
  const authority = authorityOf(scene, receiver);
  const number = plan.number * REQUESTS_PER_CONNECTION + nth;
  const user = basic(`h${rng.int(0, 999)}`, PASSWORD);
  const honest = isHonest(receiver) && (plan.name === "ip" || plan.name === "hosts");
  const common = { number, receiver: receiverNumber(receiver), permitted: true };
  if (connect) {
    const asked = { ...common, method: "CONNECT", expectsContinue: false };
    const head = `CONNECT ${authority} HTTP/1.${rng.int(0, 1)}\r\nHost: ${authority}\r\n${user}\r\n`;
    return { asked, head, body: Buffer.alloc(0), honest };
  }
  const method = rng.pick(["GET", "POST", "POST", "PUT", "HEAD"]);
  const hasBody = method === "POST" || method === "PUT";
  const payload = hasBody ? marked(cell("i", number), rng.size(16_384)) : Buffer.alloc(0);
  const expectsContinue = hasBody && rng.oneIn(8);
  const chunked = hasBody && rng.oneIn(3);
  const framing = chunked ? "Transfer-Encoding: chunked\r\n" : `Content-Length: ${payload.length}\r\n`;
  const fields = `${hasBody ? framing : ""}${expectsContinue ? "Expect: 100-continue\r\n" : ""}`;
  const path = `/${number.toString(16).padStart(8, "0")}/${rng.size(16_384)}`;
  const head = `${method} http://${authority}${path} HTTP/1.1\r\nHost: ${authority}\r\n${user}${fields}\r\n`;
  return {
    asked: { ...common, method, expectsContinue },
    head,
    body: chunked ? chunkedBody(payload, rng) : payload,
    honest,
  };
}

function chunkedBody(payload: Buffer, rng: Rng): Buffer {
  const parts: Buffer[] = [];
  for (let at = 0; at < payload.length; ) {
    const part = payload.subarray(at, at + rng.size(8192));
    const extension = rng.oneIn(8) ? ";a=b" : "";
    parts.push(Buffer.from(`${part.length.toString(16)}${extension}\r\n`), part, Buffer.from("\r\n"));
    at += part.length;
  }
  parts.push(Buffer.from("0\r\n\r\n"));
  return Buffer.concat(parts);
}

const whole = ({ head, body }: Request): Buffer => Buffer.concat([Buffer.from(head, "latin1"), body]);

/** Waits for complete answers to `count` requests, for a tunnel, or for the end. False: the time is over. */
const answered = (wire: Wire, count: number, ms: number) =>
  wire.until(() => wire.reader.tunnel || wire.reader.completed >= count || wire.over, ms);

/** Uses a tunnel: sends bytes that the receiver returns, or an HTTP request. */
async function talk(scene: Scene, { asked, honest }: Request, early = 0): Promise<void> {
  const { plan, rng, wire } = scene;
  if (plan.receiver === "echo") {
    const payload = marked(cell("i", asked.number), rng.size(65_536));
    await wire.write(payload);
    const half = rng.oneIn(2);
    if (half) wire.end();
    const expected = early + payload.length;
    const back = await wire.until(() => wire.reader.bytes >= expected, ANSWER_MS);
    if (!back && honest) {
      const how = wire.error === null ? (wire.over ? "FIN" : "silence") : wire.error.code;
      scene.violation("lost-bytes", `${wire.reader.bytes} of ${expected} bytes came back, then ${how}`);
    }
    if (half && back && honest) {
      await wire.until(() => wire.over, ANSWER_MS);
      if (!wire.ended) scene.violation("no-fin", `${wire.error?.code ?? "silence"} instead of FIN through the tunnel`);
    }
    return;
  }
  const body = marked(cell("i", asked.number), rng.size(32_768));
  const path = `/${asked.number.toString(16).padStart(8, "0")}/${rng.size(16_384)}`;
  const head = `POST ${path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: ${body.length}\r\n\r\n`;
  await wire.write(Buffer.concat([Buffer.from(head), body]));
  if (rng.oneIn(4)) wire.end();
  const got = () => wire.reader.bytes > 0 || wire.over;
  if (honest && !(await wire.until(got, ANSWER_MS))) scene.violation("hang", "no answer came through the tunnel");
  // Most clients keep the connection open for a while.
  await wire.until(() => wire.over, rng.size(3000));
}

/** One delivery from head to end. An honest receiver must be reached. */
async function deliver(scene: Scene, pieces?: Rng, pauseMs?: number, header?: Buffer): Promise<void> {
  const { rng, wire } = scene;
  const request = makeRequest(scene, 0);
  const bytes = header === undefined ? whole(request) : Buffer.concat([header, whole(request)]);
  await wire.send(bytes, [request.asked], pieces, pauseMs);
  if (!(await answered(wire, 1, request.honest || rng.oneIn(4) ? ANSWER_MS : rng.size(3000)))) return;
  checkServed(scene, request);
  if (wire.reader.tunnel) await talk(scene, request);
}

function checkServed({ wire, violation }: Scene, request: Request): void {
  const { status, notAccepted } = wire.reader;
  if (!request.honest || notAccepted || /^HTTP\/1\.1 200 /.test(status)) return;
  const how = wire.error === null ? "" : ` (${wire.error.code})`;
  violation("undelivered", status === "" ? `no answer${how}` : `${status}${how}`);
}

/** Sends a part of a request: nothing, half a head, a head, a head with some of its body, or all of it. */
async function sendPart(scene: Scene): Promise<boolean> {
  const { rng, wire } = scene;
  const request = makeRequest(scene, 0);
  const stage = rng.pick(["nothing", "part of head", "head", "part of body", "all", "all"] as const);
  if (stage === "nothing") return false;
  if (stage === "part of head") {
    await wire.write(request.head.slice(0, rng.int(1, request.head.length - 1)));
    return false;
  }
  const body = stage === "head" ? 0 : stage === "all" ? request.body.length : rng.int(0, request.body.length);
  wire.bodyOpen = body < request.body.length;
  await wire.send(whole(request).subarray(0, request.head.length + body), [request.asked]);
  return true;
}

const malformed = (rng: Rng): string => {
  const host = `${receiverAddress(0)}:${PORT}`;
  const auth = basic("h", PASSWORD);
  const get = `GET http://${host}/ HTTP/1.1\r\n`;
  return rng.pick([
    "\0\r\n\r\n",
    "GET\r\n\r\n",
    `GET / HTTP/1.1\r\nHost: ${host}\r\n${auth}\r\n`,
    `GET https://${host}/ HTTP/1.1\r\nHost: ${host}\r\n${auth}\r\n`,
    `GET http://user@${host}/ HTTP/1.1\r\nHost: ${host}\r\n${auth}\r\n`,
    `${get}Host: a\r\nHost: b\r\n${auth}\r\n`,
    `${get}${auth}\r\n`,
    `${get}Host: a\r\n X: folded\r\n${auth}\r\n`,
    `${get}Host: a\r\nX : y\r\n${auth}\r\n`,
    `${get}Host: a\nX: y\r\n${auth}\r\n`,
    `${get}Host: a\r\nX: \x01\r\n${auth}\r\n`,
    `${get}Host: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n${auth}\r\n`,
    `${get}Host: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n${auth}\r\n`,
    `${get}Host: a\r\nTransfer-Encoding: gzip\r\n${auth}\r\n`,
    `GET http://${host}/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n${auth}\r\n`,
    `GET http://${host}/ HTTP/2.0\r\nHost: a\r\n${auth}\r\n`,
    `CONNECT ${receiverAddress(0)} HTTP/1.1\r\n${auth}\r\n`,
    `CONNECT ${receiverAddress(0)}:0 HTTP/1.1\r\n${auth}\r\n`,
    `CONNECT ${receiverAddress(0)}:99999 HTTP/1.1\r\n${auth}\r\n`,
    `CONNECT 127.1:${PORT} HTTP/1.1\r\n${auth}\r\n`,
    `CONNECT 0x7f.0.0.1:${PORT} HTTP/1.1\r\n${auth}\r\n`,
    `CONNECT 2130706433:${PORT} HTTP/1.1\r\n${auth}\r\n`,
    `CONNECT [::1%lo]:${PORT} HTTP/1.1\r\n${auth}\r\n`,
    `CONNECT ${host} HTTP/1.1\r\nContent-Length: 5\r\n${auth}\r\nhello`,
    `CONNECT ${host} HTTP/1.1\r\n${auth}${auth}\r\n`,
    "\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\r\n\r\n",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
  ]);
};

const notPermitted = (number: number, method: string): Asked => {
  return { number, method, receiver: -1, expectsContinue: false, permitted: false };
};

/** Sends one head that must be refused, and reads the refusal. */
async function refused({ plan, rng, wire, violation }: Scene, bytes: Buffer | string, connect: boolean): Promise<void> {
  const number = plan.number * REQUESTS_PER_CONNECTION;
  await wire.send(bytes, [notPermitted(number, connect ? "CONNECT" : "GET")], rng.oneIn(3) ? rng : undefined);
  if (!(await wire.until(() => wire.reader.answered > 0 || wire.over, ANSWER_MS))) violation("hang", "no refusal");
}

const KINDS: Record<ClientKind, (scene: Scene) => Promise<void>> = {
  deliver: (scene) => deliver(scene),
  split: (scene) => deliver(scene, scene.rng, 0),
  slow: (scene) => deliver(scene, scene.rng, 40),

  "half-close": async (scene) => {
    const { rng, wire, violation } = scene;
    const sent = await sendPart(scene);
    if (rng.oneIn(3)) await wire.pause(rng.size(200));
    wire.end();
    const over = await wire.until(() => wire.over, ANSWER_MS);
    if (!over && !wire.reader.tunnel) violation("hang", "no FIN after the client's");
    if (over && sent && !wire.bodyOpen && wire.reader.answered === 0 && wire.error !== null) {
      violation("no-answer", `${wire.error.code} instead of an answer after the client's FIN`);
    }
  },

  reset: async (scene) => {
    const { rng, wire } = scene;
    await sendPart(scene);
    if (rng.oneIn(2)) await wire.pause(rng.size(300));
    wire.reset();
  },

  silent: async ({ rng, wire, round, violation }) => {
    const begun = rng.oneIn(2);
    if (begun) await wire.write("CONNECT a.example:443 HTTP/1.1\r\nX: y".slice(0, rng.int(1, 36)));
    if (!round.patient || !rng.oneIn(20)) {
      await wire.pause(rng.size(4000));
      return;
    }
    // The proxy may answer a head that stays incomplete, or close the connection.
    if (begun) wire.maybeAsked(notPermitted(0, "CONNECT"));
    if (!(await wire.until(() => wire.over, HEAD_TIMEOUT_MS))) violation("hang", "a silent connection stays open");
  },

  deaf: async (scene) => {
    const { rng, wire } = scene;
    wire.socket.pause();
    const request = makeRequest(scene, 0);
    await wire.send(whole(request), [request.asked]);
    if (request.asked.method === "CONNECT") await wire.write(marked(cell("i", request.asked.number), 2048));
    await wire.pause(rng.size(3000));
  },

  pipeline: async (scene) => {
    const { plan, rng, wire, round } = scene;
    const others = Object.keys(round.choice.receivers) as ReceiverKind[];
    const count = rng.int(2, 5);
    const honest = rng.oneIn(2);
    const requests = Array.from({ length: count }, (_, nth) => {
      const receiver = honest ? "http" : nth === 0 ? plan.receiver : rng.pick(others);
      // Bytes behind a CONNECT belong to its tunnel, so that it can only be the last request.
      return makeRequest(scene, nth, { receiver, connect: nth === count - 1 && rng.oneIn(4) });
    });
    const bytes = Buffer.concat(requests.map(whole));
    await wire.send(
      bytes,
      requests.map(({ asked }) => asked),
      rng.oneIn(2) ? rng : undefined,
    );
    if (rng.oneIn(2)) wire.end();
    await answered(wire, count, rng.oneIn(4) || honest ? ANSWER_MS : rng.size(4000));
  },

  "keep-alive": async (scene) => {
    const { plan, rng, wire, round } = scene;
    const others = Object.keys(round.choice.receivers) as ReceiverKind[];
    const count = rng.int(2, 6);
    for (let nth = 0; nth < count && !wire.over && wire.reader.keepAlive; nth++) {
      const receiver = rng.oneIn(2) ? "http" : nth === 0 ? plan.receiver : rng.pick(others);
      const request = makeRequest(scene, nth, { receiver, connect: false });
      await wire.send(whole(request), [request.asked]);
      if (!(await answered(wire, nth + 1, request.honest ? ANSWER_MS : rng.size(3000)))) return;
      if (wire.reader.completed <= nth && wire.over) return;
      if (rng.oneIn(4)) await wire.pause(rng.size(200));
    }
  },

  "tiny-chunks": async (scene) => {
    const { rng, wire } = scene;
    const request = makeRequest(scene, 0, { connect: false });
    const authority = authorityOf(scene, scene.plan.receiver);
    const path = `/${request.asked.number.toString(16).padStart(8, "0")}/10`;
    const user = basic("h", PASSWORD);
    const fields = `Host: ${authority}\r\n${user}Transfer-Encoding: chunked\r\n\r\n`;
    const chunks = Array.from(cell("i", request.asked.number).repeat(rng.int(1, 300)), (char) => `1\r\n${char}\r\n`);
    const end = rng.pick(["0\r\n\r\n", "0\r\n\r\n", "0\r\nX: y\r\n\r\n", "g\r\n", "", "00000000000000000001\r\n"]);
    wire.bodyOpen = !end.startsWith("0\r\n");
    const asked = { ...request.asked, method: "POST", expectsContinue: false };
    const head = `POST http://${authority}${path} HTTP/1.1\r\n${fields}`;
    await wire.send(head, [asked]);
    if (rng.oneIn(2)) await wire.write(chunks.join("") + end);
    else {
      for (const chunk of chunks.slice(0, 100)) await wire.write(chunk);
      await wire.write(end);
    }
    await answered(wire, 1, rng.size(4000));
  },

  "huge-head": async (scene) => {
    const { rng } = scene;
    const size = 16_384 + rng.size(200_000);
    const start = `GET http://${receiverAddress(0)}:${PORT}/ HTTP/1.1\r\nHost: x\r\n`;
    const line = rng.pick([`X: ${"y".repeat(30)}\r\n`, `X: ${"y".repeat(70_000)}\r\n`, "a:\r\n"]);
    const end = rng.oneIn(2) ? "\r\n" : "";
    await refused(scene, start + line.repeat(Math.ceil(size / line.length)).slice(0, size) + end, false);
  },

  malformed: async (scene) => {
    const bytes = malformed(scene.rng);
    await refused(scene, bytes, bytes.startsWith("CONNECT"));
  },

  credentials: async (scene) => {
    const { rng } = scene;
    const authority = authorityOf(scene, scene.plan.receiver);
    const field = rng.pick([
      "",
      basic("h", "wrong"),
      basic("crowd", OWN_PASSWORDS.probe),
      basic("h", OWN_PASSWORDS.crowd),
      basic("h", ""),
      "Proxy-Authorization: Basic\r\n",
      `Proxy-Authorization: Basic ${"A".repeat(4000)}\r\n`,
      "Proxy-Authorization: Basic !!!!\r\n",
      `Proxy-Authorization: Basic ${Buffer.from(PASSWORD).toString("base64")}\r\n`,
      `Proxy-Authorization: Bearer ${PASSWORD}\r\n`,
      `Authorization: Basic ${Buffer.from(`h:${PASSWORD}`).toString("base64")}\r\n`,
    ]);
    const connect = rng.oneIn(2);
    const target = connect ? authority : `http://${authority}/`;
    await refused(scene, `${connect ? "CONNECT" : "GET"} ${target} HTTP/1.1\r\nHost: x\r\n${field}\r\n`, connect);
  },

  early: async (scene) => {
    const { rng, wire } = scene;
    const request = makeRequest(scene, 0, { connect: true });
    const payload = marked(cell("i", request.asked.number), rng.size(150_000));
    const bytes = Buffer.concat([Buffer.from(request.head), payload]);
    await wire.send(bytes, [request.asked], rng.oneIn(3) ? rng : undefined);
    if (!(await answered(wire, 1, request.honest ? ANSWER_MS : rng.size(4000)))) return;
    checkServed(scene, request);
    if (wire.reader.tunnel) await talk(scene, request, payload.length);
  },

  upload: async (scene) => {
    const { rng, wire } = scene;
    const connect = rng.oneIn(2) || scene.plan.receiver === "echo";
    const request = makeRequest(scene, 0, { connect });
    const size = 40_000 + rng.size(2_000_000);
    const mark = cell("i", request.asked.number);
    let head = request.head;
    if (!connect) {
      const authority = authorityOf(scene, scene.plan.receiver);
      const path = `/${request.asked.number.toString(16).padStart(8, "0")}/100`;
      const fields = `Host: ${authority}\r\n${basic("h", PASSWORD)}Content-Length: ${size}\r\n\r\n`;
      head = `POST http://${authority}${path} HTTP/1.1\r\n${fields}`;
      request.asked.method = "POST";
      request.asked.expectsContinue = false;
      wire.bodyOpen = true;
    }
    await wire.send(head, [request.asked]);
    if (connect && !(await answered(wire, 1, rng.size(4000)))) return;
    if (connect && !wire.reader.tunnel) return;
    const block = marked(mark, 16_384);
    const patience = performance.now() + rng.size(4000);
    let left = size;
    let taken = 0;
    while (left > 0 && !wire.closed && performance.now() < patience) {
      const part = block.subarray(0, Math.min(left, block.length));
      left -= part.length;
      const written = wire.write(part).then((good) => {
        if (good) taken += part.length;
      });
      await wire.until(() => wire.socket.writableLength < 262_144, Math.max(1, patience - performance.now()));
      if (rng.oneIn(4)) await Promise.race([written, wire.pause(rng.size(20))]);
    }
    await wire.until(() => taken === size, Math.max(1, patience - performance.now()));
    wire.bodyOpen = !connect && taken < size;
    if (rng.oneIn(2)) wire.end();
    await answered(wire, connect ? 2 : 1, rng.size(1500));
  },

  forbidden: async (scene) => {
    const { plan, rng, round } = scene;
    const bracketed = (address: string) => (address.includes(":") ? `[${address}]` : address);
    const loopback = rng.pick([
      "127.0.0.1",
      "[::1]",
      "[::ffff:127.0.0.1]",
      "127.0.0.2",
      receiverAddress(0),
      "localhost",
    ]);
    const target = rng.pick([
      `${loopback}:${round.adminPort}`,
      `${loopback}:${round.port}`,
      `${bracketed(rng.pick(round.forbidden))}:${PORT}`,
      `${bracketed(rng.pick(round.forbidden))}:80`,
      `r0.i${plan.number}.private.test:${PORT}`,
      `a.denied.test:${PORT}`,
      `${receiverAddress(0)}:22`,
      `${receiverAddress(0)}:1`,
    ]);
    const connect = rng.oneIn(2);
    const line = connect ? `CONNECT ${target}` : `GET http://${target}/status`;
    await refused(scene, `${line} HTTP/1.1\r\nHost: x\r\n${basic("h", PASSWORD)}\r\n`, connect);
  },

  proxied: async (scene) => {
    const { rng, wire, named } = scene;
    if (rng.oneIn(4)) {
      const bytes = damagedHeader(rng);
      await refused(scene, bytes, false);
      return;
    }
    const source = rng.oneIn(4) ? null : proxiedSource(rng);
    const header = headerOf(rng, source, wire.socket.localPort!);
    if (rng.oneIn(5)) {
      // A health check: no record.
      await wire.write(header.subarray(0, rng.int(0, header.length)));
      return;
    }
    if (source !== null) named(source);
    await deliver(scene, rng.oneIn(3) ? rng : undefined, 0, header);
  },

  crowd: async (scene) => {
    const { rng, wire } = scene;
    const target = `${receiverAddress(receiverNumber("echo"))}:${PORT}`;
    const number = scene.plan.number * REQUESTS_PER_CONNECTION;
    const asked = { number, method: "CONNECT", receiver: -1, expectsContinue: false, permitted: true };
    await wire.send(`CONNECT ${target} HTTP/1.1\r\n${basic("crowd", OWN_PASSWORDS.crowd)}\r\n`, [asked]);
    await answered(wire, 1, ANSWER_MS);
    await wire.pause(rng.int(500, 2500));
  },
};

/** A PROXY header that names this source; null: it names none. */
function headerOf(rng: Rng, source: string | null, port: number): Buffer {
  const extra = rng.oneIn(2) ? tlv(5, Buffer.alloc(rng.int(0, 200))) : Buffer.alloc(0);
  if (source === null) {
    const local = v2({ command: 0, family: rng.int(0, 255), block: extra });
    return rng.oneIn(2) ? local : Buffer.from("PROXY UNKNOWN\r\n");
  }
  if (rng.oneIn(2)) return v1("TCP4", source, "192.0.2.1", port, 4750);
  const ports = Buffer.from([port >> 8, port & 255, 0, 80]);
  const block = Buffer.concat([ipv4(source), ipv4("192.0.2.1"), ports, extra]);
  return v2({ family: 0x11, block, checksum: rng.oneIn(2) });
}

/** Bytes of a load balancer that do not begin with a valid PROXY header. */
function damagedHeader(rng: Rng): Buffer {
  const header = headerOf(rng, proxiedSource(rng), 5);
  const request = Buffer.from(malformed(rng), "latin1");
  if (rng.oneIn(3)) return request;
  // The version of one that is binary, the protocol of one that is text.
  const at = header[0] === 80 ? 6 : 12;
  header[at] = header[at]! ^ 0x40;
  return Buffer.concat([header, request]);
}

async function run(round: Round, number: number, report: ClientsReport): Promise<void> {
  const plan = planOf(round.seed, number, round.choice);
  const { rng } = plan;
  const seen = new Set<string>();
  const violation = (category: string, detail: string) => {
    // Report each category once per connection.
    const source = `${plan.source}:${localPort}`;
    if (!seen.has(category)) report.violations.push({ number, category, detail: `${detail} [${source}]` });
    seen.add(category);
  };
  let localPort = 0;
  let { source } = plan;
  const named = (other: string) => {
    source = other;
  };
  const wire = new Wire(round.port, plan.source, violation);
  if (!(await wire.until(() => wire.connected, CONNECT_MS))) {
    violation("not-connected", wire.error?.message ?? `no connection within ${CONNECT_MS} ms`);
    wire.socket.destroy();
    return;
  }
  localPort = wire.socket.localPort ?? 0;
  await KINDS[plan.client]({ round, plan, rng, wire, named, violation });
  await wire.leave(rng);
  wire.socket.destroy();
  report.results.push({ source: `${source}:${localPort}`, number, expected: wire.expected() });
}

let stopped = false;

async function runRound(round: Round): Promise<void> {
  const { first, last, step } = round.round;
  const report: ClientsReport = { results: [], violations: [], open: 0, finished: false };
  const flush = () => {
    process.send!(report);
    report.results = [];
    report.violations = [];
  };
  const timer = setInterval(flush, REPORT_MS);
  let next = first;
  const lanes = Array.from({ length: round.concurrency }, async () => {
    while (next < last && !stopped) {
      const number = next;
      next += step;
      report.open++;
      await run(round, number, report);
      report.open--;
    }
  });
  await Promise.all(lanes);
  clearInterval(timer);
  report.finished = true;
  flush();
}

process.on("message", (order: ClientsOrder) => {
  if ("stop" in order) stopped = true;
  else void runRound(order);
});
process.on("disconnect", () => process.exit());
