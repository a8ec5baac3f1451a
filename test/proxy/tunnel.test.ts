import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { after, before, test } from "node:test";
import { OPEN_LOOPBACK, type ProxyHandle, startProxy } from "../harness/proxy.ts";
import { listen, RawClient } from "../harness/raw.ts";

const MiB = 1024 * 1024;
let proxy: ProxyHandle;
before(async () => {
  proxy = await startProxy({ policy: { defaultAction: "Allow" }, args: OPEN_LOOPBACK });
});
after(async () => {
  assert.equal(await proxy.stop(), 0);
  assert.doesNotMatch(proxy.stderr(), /uncaught|Unhandled/i);
});

const tunnelTo = async (port: number, early = ""): Promise<RawClient> => {
  const client = await RawClient.open(proxy.port);
  await client.connect(`127.0.0.1:${port}`, early);
  return client;
};

/** Writes all bytes with back-pressure; returns their SHA-256. */
async function pour(socket: Socket, total: number): Promise<string> {
  const hash = createHash("sha256");
  for (let sent = 0; sent < total; sent += MiB) {
    const chunk = randomBytes(MiB);
    hash.update(chunk);
    if (!socket.write(chunk)) await once(socket, "drain");
  }
  return hash.digest("hex");
}

test("answers one 200 line and relays early bytes first", async () => {
  let got = "";
  const upstream = await listen((socket) => {
    socket.on("data", (chunk) => {
      got += chunk;
      if (got.endsWith("!")) socket.end("bye");
    });
  });
  const client = await tunnelTo(upstream.port, "early ");
  client.socket.write("late!");
  await client.untilEnd();
  assert.equal(client.text, "bye");
  assert.equal(got, "early late!");
  client.socket.end();
  const record = await proxy.waitRecord((r) => r.target === `127.0.0.1:${upstream.port}`);
  assert.deepEqual(
    [record.verdict, record.bytesUp, record.bytesDown, record.close, record.address],
    ["allow", 11, 3, "upstream-end", "127.0.0.1"],
  );
  await upstream.close();
});

test("relays 64 MiB in both directions at once", async () => {
  const up = createHash("sha256");
  let down = "";
  let received = 0;
  const upstream = await listen((socket) => {
    void pour(socket, 64 * MiB).then((digest) => {
      down = digest;
      socket.end();
    });
    socket.on("data", (chunk) => up.update(chunk));
  });
  const client = await RawClient.open(proxy.port);
  client.socket.removeAllListeners("data");
  const hash = createHash("sha256");
  client.socket.write(`CONNECT 127.0.0.1:${upstream.port} HTTP/1.1\r\n\r\n`);
  const answer = "HTTP/1.1 200 Connection established\r\n\r\n";
  let skipped = 0;
  client.socket.on("data", (chunk: Buffer) => {
    const rest = chunk.subarray(Math.min(chunk.length, answer.length - skipped));
    skipped += chunk.length - rest.length;
    received += rest.length;
    hash.update(rest);
  });
  const ended = once(client.socket, "end");
  const sent = await pour(client.socket, 64 * MiB);
  client.socket.end();
  await ended;
  await client.until(() => client.socket.destroyed, "close");
  assert.equal(received, 64 * MiB);
  assert.equal(hash.digest("hex"), down);
  const record = await proxy.waitRecord((r) => r.target === `127.0.0.1:${upstream.port}`);
  assert.equal(record.bytesUp, 64 * MiB);
  assert.equal(up.digest("hex"), sent);
  await upstream.close();
});

test("relays a half-close in both directions", async () => {
  const upstream = await listen((socket) => {
    socket.resume();
    socket.on("end", () => socket.end("answer after your FIN"));
  });
  const client = await tunnelTo(upstream.port);
  client.socket.end("question");
  await client.untilEnd();
  assert.equal(client.text, "answer after your FIN");
  await upstream.close();

  let late = "";
  const other = await listen((socket) => {
    socket.end("first word");
    socket.on("data", (chunk) => {
      late += chunk;
    });
  });
  const second = await tunnelTo(other.port);
  await second.untilEnd();
  second.socket.end("last word");
  await once([...other.sockets][0]!, "end");
  assert.equal(late, "last word");
  await other.close();
});

test("relays 1,000 concurrent tunnels", async () => {
  const upstream = await listen((socket) => socket.pipe(socket));
  const clients: RawClient[] = [];
  for (let i = 0; i < 1000; i += 100) {
    clients.push(...(await Promise.all(Array.from({ length: 100 }, () => tunnelTo(upstream.port)))));
  }
  for (const [i, client] of clients.entries()) client.socket.write(`tunnel ${i};`);
  for (const [i, client] of clients.entries()) await client.untilText(`tunnel ${i};`);
  assert.equal(upstream.sockets.size, 1000);
  for (const client of clients) client.socket.destroy();
  await upstream.close();
});

test("reports a failed dial before any 200", async () => {
  const upstream = await listen(() => {});
  await upstream.close();
  const client = await RawClient.open(proxy.port);
  client.socket.write(`CONNECT 127.0.0.1:${upstream.port} HTTP/1.1\r\n\r\n`);
  await client.untilEnd();
  assert.match(client.text, /^HTTP\/1\.1 502 egress-connect: 127\.0\.0\.1:\d+ refused the connection\r\n/);
  assert.match(client.text, /Proxy-Status: outrider; error=connection_refused/);
  assert.match(client.text, /x-envoy-response-flags: UF/);
  client.socket.destroy();
});

/** Directions with a buffer of their own (`bulk.ts`): when all are taken, a tunnel reads on while bytes are unsent. */
const BULK_BUFFERS = 64;

test("an upstream that ended first still gets every byte", async () => {
  const sink = await listen((socket) => socket.resume());
  const others = await Promise.all(Array.from({ length: BULK_BUFFERS }, () => tunnelTo(sink.port)));
  for (const other of others) other.socket.write(Buffer.alloc(MiB / 2));
  await Promise.all(others.map((other) => other.until(() => other.socket.writableLength === 0, "end of its upload")));

  const accepted = Promise.withResolvers<Socket>();
  const upstream = await listen((socket) => {
    socket.pause();
    socket.end("first word");
    accepted.resolve(socket);
  });
  const client = await tunnelTo(upstream.port);
  const socket = await accepted.promise;
  await client.untilEnd();
  assert.equal(client.text, "first word");
  const sent = createHash("sha256");
  let total = 0;
  while ((await proxy.untilStatus(() => true)).bufferedBytes === 0) {
    assert.ok(total < 64 * MiB, "the kernel takes everything");
    const piece = randomBytes(8192);
    sent.update(piece);
    total += piece.length;
    await new Promise((resolve) => client.socket.write(piece, resolve));
  }
  // The proxy reads this FIN while it still has bytes for the upstream, and closes the connection of the client.
  client.socket.end();
  await client.until(() => client.socket.closed, "close of the client's connection");
  assert.ok((await proxy.untilStatus(() => true)).bufferedBytes > 0, "bytes are still unsent");

  const received = createHash("sha256");
  let count = 0;
  socket.on("data", (chunk) => {
    count += chunk.length;
    received.update(chunk);
  });
  socket.resume();
  await once(socket, "end");
  assert.equal(count, total);
  assert.equal(received.digest("hex"), sent.digest("hex"));
  const record = await proxy.waitRecord((r) => r.target === `127.0.0.1:${upstream.port}`);
  assert.deepEqual([record.bytesUp, record.bytesDown, record.close], [total, 10, "upstream-end"]);
  for (const other of others) other.socket.destroy();
  await upstream.close();
  await sink.close();
});

test("a dual-stack listener records IPv4 clients as IPv4", async () => {
  const both = await startProxy({ listen: "[::]:0", args: OPEN_LOOPBACK });
  const far = await listen((socket) => socket.end());
  for (const [host, source] of [
    ["127.0.0.1", /^127\.0\.0\.1:\d+$/],
    ["::1", /^\[::1\]:\d+$/],
  ] as const) {
    const client = connect(both.port, host);
    client.end(`CONNECT 127.0.0.1:${far.port} HTTP/1.1\r\n\r\n`);
    client.resume();
    await once(client, "close");
    const { source: found } = await both.waitRecord((record) => source.test(String(record.source)));
    assert.match(String(found), source);
  }
  await both.stop();
  await far.close();
});
