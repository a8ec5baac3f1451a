import assert from "node:assert/strict";
import { once } from "node:events";
import { connect } from "node:net";
import { after, before, test } from "node:test";
import { OPEN_LOOPBACK, type ProxyHandle, startProxy } from "../harness/proxy.ts";
import { listen, RawClient } from "../harness/raw.ts";
import { ipv4, ipv6, tlv, v1, v2 } from "./proxy-header-encoder.ts";

/** `--proxy-protocol` on real sockets. The load balancers are at 127.9.0.0/16, other clients at other loopback addresses. */

const BALANCER = "127.9.0.1";
const FROM = ["--proxy-protocol", "required", "--proxy-protocol-from", "127.9.0.0/16"];

let far: Awaited<ReturnType<typeof listen>>;
before(async () => {
  far = await listen((socket) => {
    socket.on("data", (chunk) => {
      if (String(chunk).includes("\r\n\r\n")) socket.end("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
      else socket.write(chunk);
    });
    socket.on("end", () => socket.end());
  });
});
after(() => far.close());

const start = (options: Partial<Parameters<typeof startProxy>[0]> = {}) =>
  startProxy({ policy: {}, ...options, args: [...OPEN_LOOPBACK, ...FROM, ...(options.args ?? [])] });
const request = (path = "/") => `GET http://127.0.0.1:${far.port}${path} HTTP/1.1\r\nHost: x\r\n\r\n`;
const latin1 = (header: Buffer): string => header.toString("latin1");

const block = (from: Buffer, port: number) =>
  Buffer.concat([from, Buffer.alloc(from.length), Buffer.from([port >> 8, port & 255, 0, 80])]);
/** Version 2 with an IPv4 source. */
const inet = (address: string, port: number) => latin1(v2({ family: 0x11, block: block(ipv4(address), port) }));
const tcp4 = (address: string, port: number) => latin1(v1("TCP4", address, "192.0.2.200", port, 4750));
const LOCAL = latin1(v2({ command: 0, family: 0, block: Buffer.alloc(0) }));

const open = (proxy: ProxyHandle, from = BALANCER) => RawClient.open(proxy.port, "127.0.0.1", from);

/** Sends bytes on a new connection, and returns the client. */
async function send(proxy: ProxyHandle, bytes: string, from?: string): Promise<RawClient> {
  const client = await open(proxy, from);
  client.socket.write(bytes, "latin1");
  return client;
}

const SOURCES: [name: string, header: string, source: string | null][] = [
  ["v1 TCP4", tcp4("192.0.2.1", 1001), "192.0.2.1:1001"],
  ["v1 TCP6", latin1(v1("TCP6", "2001:db8::1", "2001:db8::2", 1002, 4750)), "[2001:db8::1]:1002"],
  ["v1 UNKNOWN", "PROXY UNKNOWN\r\n", null],
  ["v2 IPv4", inet("192.0.2.3", 1003), "192.0.2.3:1003"],
  ["v2 IPv6", latin1(v2({ family: 0x21, block: block(ipv6("2001:db8::4"), 1004) })), "[2001:db8::4]:1004"],
  ["v2 IPv4-mapped", latin1(v2({ family: 0x21, block: block(ipv6("::ffff:c000:205"), 1005) })), "192.0.2.5:1005"],
  [
    "v2 with TLVs and a checksum",
    latin1(
      v2({
        family: 0x11,
        block: Buffer.concat([block(ipv4("192.0.2.6"), 1006), tlv(5, Buffer.alloc(200))]),
        checksum: true,
      }),
    ),
    "192.0.2.6:1006",
  ],
  ["v2 with port 0", inet("192.0.2.7", 0), "192.0.2.7:0"],
  ["v2 UNIX", latin1(v2({ family: 0x31, block: Buffer.alloc(216, "/") })), null],
  ["v2 LOCAL", LOCAL, null],
];

test("records have the source of the header, or the connection's own", async () => {
  const proxy = await start();
  for (const [i, [name, header, source]] of SOURCES.entries()) {
    const plain = await send(proxy, header + request(`/${i}`));
    await plain.untilText("\r\n\r\nok");
    const tunnel = await open(proxy);
    const own = [plain, tunnel].map(({ socket }) => `${BALANCER}:${socket.localPort}`);
    tunnel.socket.write(header, "latin1");
    await tunnel.connect(`127.0.0.1:${far.port}`, "early");
    await tunnel.untilText("early");
    tunnel.socket.end();
    await tunnel.untilEnd();
    for (const client of [plain, tunnel]) client.socket.destroy();
    await proxy.waitRecord(() => proxy.records().length === 2 * (i + 1));
    const expected = source === null ? own : [source, source];
    const found = proxy.records().slice(-2);
    assert.deepEqual(found.map((record) => record.source).sort(), expected.sort(), name);
    for (const record of found) assert.deepEqual([record.verdict, record.code], ["allow", undefined], name);
  }
  await proxy.stop();
});

test("other sources send none, and are served with their own address", async () => {
  const proxy = await start();
  const client = await send(proxy, request(), "127.0.0.1");
  await client.untilText("\r\n\r\nok");
  const { source } = await proxy.waitRecord(() => true);
  assert.equal(source, `127.0.0.1:${client.socket.localPort}`);
  client.socket.destroy();
  await proxy.stop();
});

test("a header from another source is refused, and recorded with its own address", async () => {
  const proxy = await start();
  for (const header of [tcp4("192.0.2.1", 5), inet("192.0.2.1", 5), "PROXY UNKNOWN\r\n", LOCAL]) {
    const client = await send(proxy, header + request(), "127.8.0.1");
    await client.untilEnd();
    assert.match(client.text, /^HTTP\/1\.1 400 egress-bad-request: the client sent a PROXY protocol header that /);
    const own = `127.8.0.1:${client.socket.localPort}`;
    const record = await proxy.waitRecord(({ source }) => source === own);
    assert.deepEqual([record.verdict, record.code], ["deny", "bad-request"]);
    client.socket.destroy();
  }
  assert.equal(proxy.records().length, 4);
  await proxy.stop();
});

test("a load balancer without a valid header is refused, and recorded with its own address", async () => {
  const proxy = await start();
  const damaged = v2({ family: 0x11, block: Buffer.concat([block(ipv4("192.0.2.1"), 5), tlv(3, Buffer.alloc(4))]) });
  const rows: [bytes: string, reason: RegExp, target: string][] = [
    [request("/none"), /^the connection does not begin with a PROXY protocol header; /, `127.0.0.1:${far.port}`],
    ["CONNECT a.example:443 HTTP/1.1\r\n", /^the connection does not begin with a PROXY /, "a.example:443"],
    ["\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", /^the connection does not begin with a PROXY protocol header; /, ""],
    [`PROXY TCP4 192.0.2.1 192.0.2.2 5\r\n${request()}`, /^the PROXY protocol header is malformed: its line /, "TCP4"],
    [latin1(damaged) + request(), /^the PROXY protocol header is malformed: its checksum \(CRC32C\) is wrong$/, ""],
    [`\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff`, /^the PROXY protocol header is malformed: it has 65535 bytes /, ""],
    [`PROXY UNKNOWN ${"x".repeat(100_000)}`, /^the PROXY protocol header is malformed: its line is longer /, "UNKNOWN"],
  ];
  for (const [bytes, reason, target] of rows) {
    const client = await send(proxy, bytes);
    await client.untilEnd();
    assert.match(client.text, /^HTTP\/1\.1 400 egress-bad-request: the /, bytes.slice(0, 40));
    const own = `${BALANCER}:${client.socket.localPort}`;
    const record = await proxy.waitRecord(({ source }) => source === own);
    assert.deepEqual([record.verdict, record.code], ["deny", "bad-request"]);
    assert.match(String(record.reason), reason);
    assert.ok(record.target.startsWith(target) && (target !== "" || record.target === ""), record.target);
    client.socket.destroy();
  }
  assert.equal(proxy.records().length, rows.length);
  await proxy.untilStatus(({ connections, bufferedBytes }) => connections === 0 && bufferedBytes === 0);
  await proxy.stop();
});

test("a second header is refused, and recorded with the source of the first one", async () => {
  const proxy = await start();
  for (const second of [tcp4("203.0.113.1", 6), inet("203.0.113.1", 6)]) {
    const client = await send(proxy, inet("192.0.2.1", 5) + second + request());
    await client.untilEnd();
    assert.match(client.text, /^HTTP\/1\.1 400 egress-bad-request: the client sent a PROXY protocol header /);
    client.socket.destroy();
  }
  await proxy.waitRecord(() => proxy.records().length === 2);
  for (const { source, code } of proxy.records()) assert.deepEqual([source, code], ["192.0.2.1:5", "bad-request"]);
  await proxy.stop();
});

test("header and head may be split at each byte", { timeout: 120_000 }, async () => {
  const proxy = await start();
  for (const header of [tcp4("192.0.2.1", 5), inet("192.0.2.1", 5)]) {
    const before = proxy.records().length;
    const wire = header + request();
    const clients = await Promise.all(Array.from({ length: wire.length - 1 }, () => open(proxy)));
    let held = 0;
    for (const [i, { socket }] of clients.entries()) {
      const cut = i + 1;
      socket.write(wire.slice(0, cut), "latin1");
      held += cut < header.length ? cut : cut - header.length;
    }
    // All first parts have been read: an incomplete header counts like an incomplete head.
    await proxy.untilStatus(({ bufferedBytes }) => bufferedBytes === held);
    for (const [i, { socket }] of clients.entries()) socket.write(wire.slice(i + 1), "latin1");
    for (const client of clients) await client.untilText("\r\n\r\nok");
    await proxy.waitRecord(() => proxy.records().length === before + clients.length);
    for (const { source, verdict } of proxy.records()) assert.deepEqual([source, verdict], ["192.0.2.1:5", "allow"]);
    for (const { socket } of clients) socket.destroy();
  }
  await proxy.untilStatus(({ connections, bufferedBytes }) => connections === 0 && bufferedBytes === 0);
  await proxy.stop();
});

test("a kept-alive connection keeps the source of its header", async () => {
  const proxy = await start();
  const client = await send(proxy, tcp4("192.0.2.1", 5) + request("/1"));
  await client.untilText("\r\n\r\nok");
  client.socket.write(request("/2"));
  await client.until(() => client.text.split("\r\n\r\nok").length === 3, "second answer");
  await proxy.waitRecord(() => proxy.records().length === 2);
  assert.deepEqual(
    proxy.records().map(({ source }) => source),
    ["192.0.2.1:5", "192.0.2.1:5"],
  );
  client.socket.destroy();
  await proxy.stop();
});

test("connections without a request leave no record", async () => {
  const proxy = await start();
  const balancers = ["", LOCAL, "PROXY UNKNOWN\r\n", inet("192.0.2.1", 5), tcp4("192.0.2.1", 5), "PROXY TCP4 19"];
  for (const bytes of balancers) {
    // FIN, and then RST.
    for (const end of ["end", "resetAndDestroy"] as const) {
      const client = bytes === "" ? await open(proxy) : await send(proxy, bytes);
      client.socket[end]();
      if (end === "end") await client.untilEnd();
      client.socket.destroy();
    }
  }
  await proxy.untilStatus(({ connections, bufferedBytes }) => connections === 0 && bufferedBytes === 0);
  const last = await send(proxy, inet("192.0.2.9", 9) + request());
  await last.untilText("\r\n\r\nok");
  await proxy.waitRecord(() => true);
  assert.deepEqual(
    proxy.records().map(({ source }) => source),
    ["192.0.2.9:9"],
  );
  assert.equal(await proxy.bound("silent-connections"), 0);
  last.socket.destroy();
  await proxy.stop();
});

test("header and head have one deadline, from accept", async () => {
  const proxy = await start({ args: ["--head-seconds", "1"] });
  const began = performance.now();
  const silent = await open(proxy);
  const half = await send(proxy, "PROXY TCP4 192.0.2.1 ");
  const local = await send(proxy, LOCAL);
  const head = await send(proxy, inet("192.0.2.2", 5) + request().slice(0, 30));
  // Bytes do not extend the time.
  const slow = connect({ port: proxy.port, host: "127.0.0.1", localAddress: BALANCER });
  slow.on("error", () => {});
  const drip = setInterval(() => slow.write("\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".slice(0, 1)), 400);
  slow.write("PROXY UNKNOWN");
  slow.resume();
  await Promise.all([...[silent, half, local, head].map((client) => client.untilEnd(9000)), once(slow, "close")]);
  clearInterval(drip);
  assert.ok(performance.now() - began >= 1000, "not before the time is over");
  assert.deepEqual([silent.text, local.text], ["", ""]);
  assert.match(
    half.text,
    /^HTTP\/1\.1 408 egress-bad-request: the PROXY protocol header was not complete within 1 s\r\n/,
  );
  assert.match(head.text, /^HTTP\/1\.1 408 egress-bad-request: the request head was not complete within 1 s\r\n/);
  await proxy.waitRecord(() => proxy.records().length === 3);
  const own = `${BALANCER}:${half.socket.localPort}`;
  const sources = proxy.records().map(({ source }) => source);
  assert.ok(sources.includes(own) && sources.includes("192.0.2.2:5"), sources.join());
  assert.equal(await proxy.bound("silent-connections"), 5);
  for (const { socket } of [silent, half, local, head]) socket.destroy();
  await proxy.untilStatus(({ connections }) => connections === 0);
  await proxy.stop();
});

test("a late header does not extend the deadline of the head", async () => {
  const proxy = await start({ args: ["--head-seconds", "3"] });
  const late = await open(proxy);
  // Accepted later, so its time is over later or in the same check, of which there is one a second.
  const silent = await open(proxy, "127.0.0.1");
  await new Promise((resolve) => setTimeout(resolve, 1500));
  late.socket.write(inet("192.0.2.1", 5), "latin1");
  await silent.untilEnd();
  await late.untilEnd(700);
  for (const { socket } of [late, silent]) socket.destroy();
  await proxy.stop();
});

test("the limit of silent connections counts the sources of headers, not load balancers", async () => {
  const proxy = await start();
  const clients = await Promise.all(Array.from({ length: 300 }, () => open(proxy)));
  await proxy.untilStatus(({ connections }) => connections === 300);
  assert.equal(await proxy.bound("connections-per-source"), 0);
  for (const [i, { socket }] of clients.entries()) socket.write(inet(i < 40 ? "192.0.2.1" : "192.0.2.2", 5), "latin1");
  await proxy.untilStatus(({ connections }) => connections === 296);
  assert.equal(await proxy.bound("connections-per-source"), 4);
  for (const { socket } of clients) socket.destroy();
  await proxy.untilStatus(({ connections }) => connections === 0);
  await proxy.stop();
});

test("connections without a header make room for others when all are taken", async () => {
  // 10 tunnels and 26 idle clients.
  const proxy = await start({ args: ["--max-tunnels", "10"], openFiles: 200 });
  const silent = await Promise.all(Array.from({ length: 36 }, () => open(proxy)));
  await proxy.untilStatus(({ connections }) => connections === 36);
  // Younger ones are not closed.
  await new Promise((resolve) => setTimeout(resolve, 200));
  const client = await send(proxy, inet("192.0.2.1", 5) + request());
  await client.untilText("HTTP/1.1 200 ");
  await silent[0]!.untilEnd();
  assert.equal(await proxy.bound("silent-connections"), 1);
  for (const { socket } of [client, ...silent]) socket.destroy();
  await proxy.stop();
});

test("maxTunnelsPerClient counts the sources of headers", async () => {
  const proxy = await start({ policy: { proxy: { limits: { maxTunnelsPerClient: 1 } } } });
  const tunnel = async (address: string) => {
    const client = await send(proxy, inet(address, 5));
    client.socket.write(`CONNECT 127.0.0.1:${far.port} HTTP/1.1\r\n\r\n`);
    await client.untilText("\r\n\r\n");
    return client;
  };
  const clients = [await tunnel("192.0.2.1"), await tunnel("192.0.2.2"), await tunnel("192.0.2.1")];
  const status = clients.map(({ text }) => text.slice(9, 12));
  assert.deepEqual(status, ["200", "200", "503"]);
  for (const { socket } of clients) socket.destroy();
  await proxy.stop();
});

test("wrong passwords count against the sources of headers", async () => {
  const proxy = await start({ env: { PROXY_PASSWORD: "right" } });
  const guess = async (address: string) => {
    const wrong = `${request().slice(0, -2)}Proxy-Authorization: Basic YTpi\r\n\r\n`;
    const client = await send(proxy, inet(address, 5) + wrong);
    await client.untilText("HTTP/1.1 407 ");
    client.socket.destroy();
  };
  for (let i = 0; i < 20; i++) await guess("192.0.2.1");
  assert.equal(await proxy.bound("password-guesses"), 0);
  await guess("192.0.2.2");
  assert.equal(await proxy.bound("password-guesses"), 0);
  for (let i = 0; i < 3; i++) await guess("192.0.2.1");
  assert.ok((await proxy.bound("password-guesses")) > 0);
  await proxy.stop();
});

test("the source of a header opens nothing", async () => {
  const proxy = await startProxy({ policy: {}, args: FROM });
  const own = `127.0.0.1:${proxy.port}`;
  for (const source of ["127.0.0.1", "169.254.169.254", "0.0.0.0", "255.255.255.255"]) {
    for (const target of [`127.0.0.1:${far.port}`, own, `127.9.0.1:${proxy.port}`]) {
      const client = await send(proxy, `${inet(source, 5)}CONNECT ${target} HTTP/1.1\r\n\r\n`);
      await client.untilEnd();
      assert.match(client.text, /^HTTP\/1\.1 403 egress-denied: /, `${source} to ${target}`);
      client.socket.destroy();
    }
  }
  await proxy.stop();
});

test("the proxy's own ports stay closed for clients behind a load balancer", async () => {
  const proxy = await start();
  const client = await send(proxy, `${inet("192.0.2.1", 5)}CONNECT 127.0.0.1:${proxy.port} HTTP/1.1\r\n\r\n`);
  await client.untilEnd();
  assert.match(client.text, /^HTTP\/1\.1 403 egress-denied: /);
  client.socket.destroy();
  await proxy.stop();
});

test("a dual-stack listener compares IPv4 sources as IPv4", async () => {
  const proxy = await start({ listen: "[::]:0", args: ["--proxy-protocol-from", "::1/128"] });
  for (const [host, from] of [
    ["127.0.0.1", BALANCER],
    ["::1", "::1"],
  ] as const) {
    const client = await RawClient.open(proxy.port, host, from);
    client.socket.write(inet("192.0.2.1", 5) + request(), "latin1");
    await client.untilText("\r\n\r\nok");
    client.socket.destroy();
  }
  await proxy.waitRecord(() => proxy.records().length === 2);
  for (const { source } of proxy.records()) assert.equal(source, "192.0.2.1:5");
  await proxy.stop();
});

test("a connection whose header comes during the shutdown is served", async () => {
  const proxy = await start({ env: { OUTRIDER_DRAIN_SECONDS: "20" } });
  const client = await send(proxy, "PROXY TCP4 192.0.2.1 ");
  await proxy.untilStatus(({ bufferedBytes }) => bufferedBytes > 0);
  const stopped = proxy.stop();
  await proxy.untilStatus(({ phase }) => phase === "draining");
  client.socket.write(`192.0.2.2 5 6\r\n${request()}`);
  await client.untilText("\r\n\r\nok");
  client.socket.destroy();
  assert.equal(await stopped, 0);
  assert.deepEqual(
    proxy.records().map(({ source, verdict }) => [source, verdict]),
    [["192.0.2.1:5", "allow"]],
  );
});

test("--healthcheck-path answers load balancers behind a header, without a record", async () => {
  const proxy = await start({ args: ["--healthcheck-path", "/health"] });
  const client = await send(proxy, `${LOCAL}GET /health HTTP/1.1\r\nHost: x\r\n\r\n`);
  await client.untilText("HTTP/1.1 200 ");
  client.socket.destroy();
  await proxy.stop();
  assert.deepEqual(proxy.records(), []);
});
