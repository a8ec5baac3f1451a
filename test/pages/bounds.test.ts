import assert from "node:assert/strict";
import { once } from "node:events";
import { request } from "node:http";
import { after, before, test } from "node:test";
import { namespaceMissing, runInNamespace } from "../harness/namespace.ts";
import { OPEN_LOOPBACK, type ProxyHandle, startProxy } from "../harness/proxy.ts";
import { exchange, listen, RawClient } from "../harness/raw.ts";
import { type Reader, readEvents, until } from "./sse.ts";

/** The page of the admin port and its live decisions without a browser: who gets them, and their bounds. */

const PATHS = ["/", "/summary", "/decisions"];
/** As in proxy/pages/decisions.ts. */
const MAX_READERS = 4;
const MAX_LINES = 100;

let far: Awaited<ReturnType<typeof listen>>;
let proxy: ProxyHandle;
/** A proxy for the last two tests, with a reader from the start. */
let other: ProxyHandle;
let patient: Reader;
before(async () => {
  far = await listen((socket) => socket.on("data", () => socket.end("HTTP/1.1 204 No Content\r\n\r\n")));
  const policy = { deny: [{ name: "competitors", hosts: ["*.competitor.example"] }] };
  const options = { policy, args: OPEN_LOOPBACK, hosts: "127.0.0.1 good.example\n" };
  other = await startProxy(options);
  patient = await readEvents(other.adminPort, "/decisions");
  proxy = await startProxy(options);
});
after(async () => {
  await proxy.stop();
  await other.stop();
  await far.close();
});

const denied = () => exchange(proxy.port, "CONNECT x.competitor.example:443 HTTP/1.1\r\n\r\n");
const summary = async () => JSON.parse((await proxy.admin("/summary")).text) as Record<string, unknown>;
const readersAre = (count: number) => until(async () => (await summary()).readers === count, `${count} readers`);

/** Status and headers of an answer, without waiting for its body. */
async function ask(path: string, headers: Record<string, string>, method = "GET") {
  const sent = request({ host: "127.0.0.1", port: proxy.adminPort, path, headers, method, agent: false }).end();
  const [response] = await once(sent, "response");
  response.destroy();
  return { status: response.statusCode as number, headers: response.headers as Record<string, string> };
}

test("the page has its headers of security", async () => {
  const { status, headers } = await ask("/", {});
  assert.equal(status, 200);
  const policy = headers["content-security-policy"]!.split("; ").map((part) =>
    part.replace(/'sha256-[^']{44}'/, "HASH"),
  );
  assert.deepEqual(policy, [
    ...["default-src 'none'", "script-src HASH", "style-src HASH", "connect-src 'self'", "img-src data:"],
    ...["frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'"],
    ...["require-trusted-types-for 'script'", "trusted-types 'none'"],
  ]);
  assert.equal(headers["x-content-type-options"], "nosniff");
  assert.equal(headers["referrer-policy"], "no-referrer");
  assert.equal(headers["cache-control"], "no-store");
});

test("no other page can read or guess the type of an answer", async () => {
  for (const path of ["/summary", "/explain?target=a.example:443", "/explain", "/status", "/metrics", "/nothing"]) {
    const { headers } = await ask(path, {});
    assert.equal(headers["x-content-type-options"], "nosniff", path);
    assert.equal(headers["cross-origin-resource-policy"], "same-origin", path);
    assert.equal(headers["cache-control"], "no-store", path);
  }
});

for (const path of PATHS) {
  test(`${path} answers local pages and commands only`, async () => {
    const own = `127.0.0.1:${proxy.adminPort}`;
    const status = async (headers: Record<string, string>) => (await ask(path, headers)).status;
    assert.equal(await status({ host: own }), 200);
    assert.equal(await status({ host: "localhost:9750", origin: "http://localhost:9750" }), 200);
    assert.equal(await status({ host: "rebound.example" }), 403);
    assert.equal(await status({ host: own, origin: "https://foreign.example" }), 403);
    assert.equal(await status({ host: own, origin: "null" }), 403);
    assert.equal(await status({ host: own, "sec-fetch-site": "cross-site" }), 403);
    assert.equal((await ask(path, { host: own }, "POST")).status, 405);
    await readersAre(0);
  });
}

test("other machines and slow readers", { skip: namespaceMissing() ?? false }, () =>
  runInNamespace(new URL("bounds.inside.ts", import.meta.url)),
);

test("HEAD gets the headers and is no reader", async () => {
  const { status, headers } = await ask("/decisions", {}, "HEAD");
  assert.deepEqual([status, headers["content-type"]], [200, "text/event-stream"]);
  assert.equal((await ask("/", {}, "HEAD")).status, 200);
  await readersAre(0);
});

test("a fifth reader gets 503, and a place becomes free again", async () => {
  const readers: Reader[] = [];
  for (let i = 0; i < MAX_READERS; i++) readers.push(await readEvents(proxy.adminPort, "/decisions"));
  assert.deepEqual(
    readers.map(({ status }) => status),
    [200, 200, 200, 200],
  );
  assert.equal((await readEvents(proxy.adminPort, "/decisions")).status, 503);
  assert.equal(await proxy.bound("decision-readers"), 1);
  await denied();
  await until(() => readers.every((reader) => reader.events().length === 1), "the record at each reader");
  const record = await proxy.waitRecord(() => true);
  for (const reader of readers) assert.deepEqual(JSON.parse(reader.events()[0]!), record);
  readers[0]!.close();
  await readersAre(MAX_READERS - 1);
  const next = await readEvents(proxy.adminPort, "/decisions");
  assert.equal(next.status, 200);
  for (const reader of [...readers, next]) reader.close();
  await readersAre(0);
});

test("too many records in a second are dropped and counted", async () => {
  const reader = await readEvents(proxy.adminPort, "/decisions");
  const before = await proxy.bound("decision-lines");
  const dropped = () => reader.events("dropped").reduce((sum, count) => sum + Number(count), 0);
  // Fewer at once than the proxy's limit of silent connections of a source address: a busy machine may reach its grace time.
  const batch = 2 * MAX_LINES;
  for (let sent = batch; dropped() === 0 && sent <= 10 * batch; sent += batch) {
    await Promise.all(Array.from({ length: batch }, denied));
    await until(() => reader.events().length + dropped() === sent, `all ${sent} records, sent or dropped`);
  }
  assert.ok(dropped() > 0, "some were dropped");
  assert.equal((await proxy.bound("decision-lines")) - before, dropped());
  reader.close();
  await readersAre(0);
});

test("the summary counts refusals of the last minutes by reason", async () => {
  const count = async () => {
    const { minutes } = (await summary()) as { minutes: { codes: Record<string, number> }[] };
    assert.ok(minutes.length <= 15);
    return minutes.reduce((sum, { codes }) => sum + (codes["denied-rule"] ?? 0), 0);
  };
  const before = await count();
  await denied();
  await until(async () => (await count()) === before + 1, "one more");
});

test("a reader outlives the time limit of answers, and gets heartbeats", async () => {
  // After 15 s. The admin port gives other answers 10 s.
  await until(() => patient.text().includes(": heartbeat\n\n"), "a heartbeat", 40_000);
  await exchange(other.port, "CONNECT x.competitor.example:443 HTTP/1.1\r\n\r\n");
  await until(() => patient.events().length === 1, "a record after it");
});

test("a shutdown ends live decisions after the last record", async () => {
  const ended = once(patient.response, "close");
  const tunnel = await RawClient.open(other.port);
  await tunnel.connect(`good.example:${far.port}`);
  assert.equal(await other.stop(), 0);
  await ended;
  tunnel.socket.destroy();
  assert.equal((JSON.parse(patient.events()[1]!) as { close: string }).close, "drain");
});
