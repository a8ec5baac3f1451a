import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import type { IncomingMessage } from "node:http";
import { createServer, type Server } from "node:https";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { type Duplex, Readable } from "node:stream";
import { after, before, test } from "node:test";
import { acceptOfKey } from "../../operator/kube/websocket.ts";
import { makeCertificate, opensslMissing } from "../harness/certificate.ts";
import { type Finished, finish } from "../harness/finish.ts";
import { OUTRIDER, tempFolder } from "../harness/proxy.ts";

/** The commands of users against an API server and a pod that send what they like. */

const skip = opensslMissing() ?? false;
const ESCAPE = "\x1b[2J";
/** A command that has not ended by then hangs: its status is null. */
const HANG_MS = 40_000;
const POD = {
  metadata: {
    name: "webhooks-egress-a",
    namespace: "convoy",
    uid: "u",
    labels: { "egress.outrider.dev/fleet": "webhooks" },
  },
  spec: { containers: [{ name: "proxy", ports: [{ name: "admin", containerPort: 9090 }] }] },
  status: { phase: "Running", conditions: [{ type: "Ready", status: "True" }] },
};
const POLICY = {
  metadata: { name: "webhooks", namespace: "convoy", uid: "p", generation: 1 },
  spec: { mode: "Enforce", preset: "Convoy", injection: { mode: "None" }, authentication: { mode: "None" } },
};
const STATUS = {
  ...{ version: "0.1.0", policy: { hash: `sha256:${"0".repeat(64)}` }, policyError: null, ready: true },
  ...{ sources: [], verification: [] },
};
const METRICS = "outrider_proxy_active_tunnels 1\n";

/** Bytes that the pod sends after the request of a path. */
type PodAnswer = (path: string) => Buffer;
let podAnswer: PodAnswer;
/** Body of the list of pods; null: no answer. */
let pods: string | null;
let server: Server;
let kubeconfig = "";
let waiting = Promise.withResolvers<void>();

function frame(payload: Buffer, opcode = 0x82): Buffer {
  const head = Buffer.alloc(10);
  head[0] = opcode;
  head[1] = 127;
  head.writeBigUInt64BE(BigInt(payload.length), 2);
  return Buffer.concat([head, payload]);
}

/** An answer of another protocol than the requested one. */
const SWITCH = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nHello";

function* endless(): Generator<string> {
  for (;;) yield ESCAPE.repeat(10_000);
}

/** Frames of channel 0 with a complete HTTP response. */
const http = (body: string): Buffer =>
  framed(`HTTP/1.1 200 OK\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`);

/** Frames of channel 0. Each channel begins with the port. */
function framed(text: string): Buffer {
  const bytes = Buffer.from(text);
  const chunks = [frame(Buffer.from([0, 0x82, 0x23]))];
  for (let at = 0; at < bytes.length; at += 32_768) {
    chunks.push(frame(Buffer.concat([Buffer.of(0), bytes.subarray(at, at + 32_768)])));
  }
  return Buffer.concat(chunks);
}

/** Plays the pod on an upgraded connection: answers the first request. */
function forward({ headers }: IncomingMessage, socket: Duplex): void {
  socket.on("error", () => {});
  socket.write(
    `HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Protocol: v4.channel.k8s.io\r\nSec-WebSocket-Accept: ${acceptOfKey(headers["sec-websocket-key"]!)}\r\n\r\n`,
  );
  socket.once("data", (bytes: Buffer) => {
    const start = (bytes[1]! & 0x7f) < 126 ? 2 : 4;
    const mask = bytes.subarray(start, start + 4);
    const text = Buffer.from(bytes.subarray(start + 4).map((byte, i) => byte ^ mask[i % 4]!)).toString();
    socket.write(podAnswer(/^.(?:GET|POST) (\S+)/s.exec(text)?.[1] ?? ""));
  });
}

before(async () => {
  if (skip) return;
  const folder = tempFolder();
  const { key, cert } = makeCertificate(folder, ["127.0.0.1"]);
  server = createServer({ key: readFileSync(key), cert: readFileSync(cert) }, ({ url }, response) => {
    const path = url!.split("?")[0]!;
    const body = path.endsWith("/pods")
      ? pods
      : JSON.stringify(path.endsWith("/webhooks") ? POLICY : { metadata: {}, items: [] });
    if (body === null) return waiting.resolve();
    if (body === SWITCH) return void response.socket!.write(SWITCH);
    if (url!.includes("watch=1")) {
      response.writeHead(403).on("error", () => {});
      return void Readable.from(endless()).pipe(response);
    }
    response.writeHead(200, { "content-type": "application/json" }).end(body);
  });
  server.on("upgrade", forward);
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  const cluster = { server: `https://127.0.0.1:${port}`, "certificate-authority": cert };
  kubeconfig = join(folder, "kubeconfig");
  writeFileSync(
    kubeconfig,
    JSON.stringify({
      ...{ apiVersion: "v1", kind: "Config", "current-context": "c" },
      contexts: [{ name: "c", context: { cluster: "c", user: "u", namespace: "convoy" } }],
      clusters: [{ name: "c", cluster }],
      users: [{ name: "u", user: { token: "t" } }],
    }),
  );
});
after(() => server?.closeAllConnections());
after(() => server?.close());

const PODS = JSON.stringify({ metadata: {}, items: [POD] });

function start(command: string, args: readonly string[]): ChildProcess {
  const env = { ...process.env, KUBECONFIG: kubeconfig };
  const child = spawn(command, args, { env, stdio: ["ignore", "pipe", "pipe"] });
  const timer = setTimeout(() => child.kill("SIGKILL"), HANG_MS);
  child.once("exit", () => clearTimeout(timer));
  return child;
}

/** Runs the kubectl plugin while the API server lists `podList` and the pod sends `answer`. */
function egress(args: readonly string[], answer: PodAnswer, podList: string | null = PODS): Promise<Finished> {
  pods = podList;
  podAnswer = answer;
  return finish(start(OUTRIDER, ["egress", ...args]));
}

const top = (metrics: string) =>
  egress(["top", "webhooks", "--interval-seconds=1"], () => http(`${METRICS}${metrics}\n`));
const refused = (code: string) => `outrider_proxy_requests_total{verdict="deny",code="${code}"} 1`;

test("top reads a line whose labels are one long name", { skip }, async () => {
  const { status, stdout } = await top(`outrider_proxy_requests_total{${"a".repeat(1_000_000)}} 1`);
  assert.equal(status, 0);
  assert.match(stdout, /webhooks-egress-a +- +1 /);
});

test("top shows some of very many reasons, and the sum of all", { skip }, async () => {
  const { status, stdout } = await top(Array.from({ length: 60_000 }, (_, i) => refused(`${i}`)).join("\n"));
  assert.equal(status, 0);
  assert.ok(stdout.split("\n").length < 300, `${stdout.split("\n").length} lines`);
  assert.match(stdout, / 60000\n/);
});

test("explain shows some of very many addresses", { skip }, async () => {
  const addresses = Array.from({ length: 30_000 }, () => ({ address: "10.0.0.1", class: "private", verdict: "out" }));
  const explanation = { target: "a.example:443", verdict: "deny", reason: ESCAPE, addresses };
  const { status, stdout } = await egress(["explain", "a.example:443", "-p", "webhooks"], (path) =>
    http(JSON.stringify(path.startsWith("/explain") ? explanation : STATUS)),
  );
  assert.equal(status, 1);
  assert.ok(stdout.split("\n").length < 300, `${stdout.split("\n").length} lines`);
  assert.match(stdout, /and \d+ more/);
  assert.match(stdout, /^[ -~\n]*$/);
});

test("a status with very many proofs is no answer", { skip }, async () => {
  const proof = { way: "a", verified: true, expected: [], observed: [], provenAt: null, checkedAt: null, error: null };
  const status = { ...STATUS, verification: Array.from({ length: 20_000 }, () => proof) };
  const { stdout } = await egress(["status", "webhooks"], () => http(JSON.stringify(status)));
  assert.match(stdout, /does not answer: \/status has more than \d+ entries at verification/);
});

test("empty fragments without an end are no answer", { skip }, async () => {
  // 1,000,000 fragments of 2 bytes: a message that has no end, below each limit of bytes.
  const fragments = Buffer.alloc(2_000_000);
  fragments[0] = 2;
  const { status, stderr } = await egress(["top", "webhooks"], () => fragments);
  assert.equal(status, 3);
  assert.match(
    stderr,
    /^outrider: no proxy answers; webhooks-egress-a: the server sent a WebSocket message of more than \d+ fragments\n$/,
  );
});

for (const [what, list] of [
  ["without metadata", JSON.stringify({ items: [] })],
  ["of nothing", JSON.stringify({ metadata: {}, items: [null] })],
  ["of pods without names", JSON.stringify({ metadata: {}, items: [{ metadata: { labels: 5 }, spec: ESCAPE }] })],
  ["that is no JSON", `${ESCAPE}{`],
] as const) {
  test(`a list ${what} ends the command with one line`, { skip }, async () => {
    const { status, stderr } = await egress(["top", "webhooks"], () => http(METRICS), list);
    assert.match(stderr, /^outrider: [ -~]*\n$/);
    assert.equal(status, 3);
  });
}

test("an answer of another protocol of the API server ends the command", { skip }, async () => {
  const { status, stderr } = await egress(["top", "webhooks", "--timeout-seconds=2"], () => http(METRICS), SWITCH);
  assert.equal(status, 3);
  assert.match(stderr, /^outrider: GET [ -~]*\n$/);
});

for (const [what, text] of [
  ["of another protocol", SWITCH],
  ["with a long head", `HTTP/1.1 200 OK\r\n${"a: b\r\n".repeat(100_000)}\r\n`],
  ["with more than its length", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"],
  ["above the limit", `HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n${"a".repeat(5_000_000)}`],
] as const) {
  test(`an answer ${what} is no answer`, { skip }, async () => {
    const { status, stderr } = await egress(["top", "webhooks", "--timeout-seconds=30"], () => framed(text));
    assert.equal(status, 3, "0 would mean a good answer");
    assert.match(stderr, /^outrider: no proxy answers; webhooks-egress-a: (?!no answer within)[ -~]*\n$/);
  });
}

test("a refused watch with an endless reason ends the command", { skip }, async () => {
  pods = PODS;
  const { status, stderr } = await finish(start(OUTRIDER, ["get", "--watch"]));
  assert.match(stderr, /^outrider: missing right: [ -~]*\n$/);
  assert.ok(stderr.length < 3000, `${stderr.length} characters`);
  assert.equal(status, 3);
});

for (const [args, ended] of [
  [["get", "--watch"], { status: 0, signal: null }],
  [["egress", "top", "webhooks", "--watch"], { status: 0, signal: null }],
  [["egress", "top", "webhooks"], { status: null, signal: "SIGINT" }],
] as const) {
  test(`SIGINT ends ${args.join(" ")} while the API server does not answer`, { skip }, async () => {
    pods = null;
    waiting = Promise.withResolvers();
    const child = start(OUTRIDER, [...args, "--timeout-seconds=600"]);
    await waiting.promise;
    child.kill("SIGINT");
    const [status, signal] = await once(child, "exit");
    assert.deepEqual({ status, signal }, ended);
  });
}

test("a watch on a terminal keeps the lines before it", { skip }, async () => {
  pods = PODS;
  podAnswer = () => http(METRICS);
  // `script` (bsdutils) gives the command a terminal.
  const child = start("script", ["-qec", `${OUTRIDER} egress top webhooks --watch --interval-seconds=1`, "/dev/null"]);
  let shown = "";
  for await (const chunk of child.stdout!) {
    shown += chunk;
    if (shown.includes("no refusals")) break;
  }
  child.kill("SIGTERM");
  assert.ok(shown.includes("\x1b[2J"), JSON.stringify(shown));
  assert.ok(!shown.includes("\x1b[3J"), "it erases the lines that scrolled away");
});
