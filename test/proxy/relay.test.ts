import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { deafListener, untilDialling } from "../harness/deaf.ts";
import { OPEN_LOOPBACK, type ProxyHandle, startProxy } from "../harness/proxy.ts";
import { listen, RawClient } from "../harness/raw.ts";

const MiB = 1024 * 1024;
const BULK = 64 * MiB;
const ANSWER = "HTTP/1.1 200 Connection established\r\n\r\n";

let proxy: ProxyHandle;
before(async () => {
  proxy = await startProxy({ policy: {}, args: [...OPEN_LOOPBACK, "--connect-seconds", "2"] });
});
after(async () => {
  assert.equal(await proxy.stop(), 0);
  assert.doesNotMatch(proxy.stderr(), /"level":"(error|fatal)"|Error:/);
});

const recordOf = (port: number) => proxy.waitRecord((r) => r.target === `127.0.0.1:${port}`);

/** Opens a tunnel without collecting its bytes; reads only the answer. */
async function rawTunnel(port: number): Promise<Socket> {
  const socket = connect({ port: proxy.port, host: "127.0.0.1", allowHalfOpen: true });
  socket.write(`CONNECT 127.0.0.1:${port} HTTP/1.1\r\n\r\n`);
  let head = "";
  while (head.length < ANSWER.length) {
    const piece = socket.read(ANSWER.length - head.length) as Buffer | null;
    if (piece === null) await once(socket, "readable");
    else head += piece.toString("latin1");
  }
  assert.equal(head, ANSWER);
  return socket;
}

/** Writes random bytes with back-pressure, then FIN; returns their SHA-256. */
async function pour(socket: Socket): Promise<string> {
  const hash = createHash("sha256");
  for (let sent = 0; sent < BULK; sent += MiB) {
    const chunk = randomBytes(MiB);
    hash.update(chunk);
    if (!socket.write(chunk)) await once(socket, "drain");
  }
  socket.end();
  return hash.digest("hex");
}

/**
 * Reads nothing until the sender is blocked, then everything. Returns the SHA-256 and the growth of the proxy's memory
 * until then.
 */
async function drink(socket: Socket, sender: Socket): Promise<{ digest: string; grown: number; stuckAt: number }> {
  const first = proxy.rss();
  for (let same = 0, last = -1; same < 4; ) {
    await sleep(100);
    same = sender.bytesWritten - sender.writableLength === last ? same + 1 : 0;
    last = sender.bytesWritten - sender.writableLength;
  }
  const result = { grown: proxy.rss() - first, stuckAt: sender.bytesWritten };
  const hash = createHash("sha256");
  for await (const chunk of socket) hash.update(chunk as Buffer);
  return { ...result, digest: hash.digest("hex") };
}

for (const direction of ["up", "down"] as const) {
  test(`back-pressure on 64 MiB ${direction} loses no byte`, async () => {
    const accepted = Promise.withResolvers<Socket>();
    const far = await listen((socket) => {
      socket.pause();
      accepted.resolve(socket);
    });
    const client = await rawTunnel(far.port);
    const upstream = await accepted.promise;
    const [from, to] = direction === "up" ? [client, upstream] : [upstream, client];
    const [sent, { digest, grown, stuckAt }] = await Promise.all([pour(from), drink(to, from)]);
    assert.ok(stuckAt < BULK / 2, `${stuckAt} bytes went into a tunnel without a reader`);
    assert.ok(grown < 40, `memory grew by ${grown} MiB`);
    assert.equal(digest, sent);
    to.end();
    const record = await recordOf(far.port);
    const bytes = direction === "up" ? [BULK, 0] : [0, BULK];
    assert.deepEqual([record.bytesUp, record.bytesDown], bytes);
    assert.equal(record.close, direction === "up" ? "client-end" : "upstream-end");
    await far.close();
  });
}

test("more streams than bulk buffers lose no byte", async () => {
  const far = await listen((socket) => socket.pipe(socket));
  const one = async () => {
    const sent = randomBytes(2 * MiB);
    const client = await RawClient.open(proxy.port);
    await client.connect(`127.0.0.1:${far.port}`);
    client.socket.write(sent);
    await client.until(() => client.bytes.length >= sent.length, "all bytes", 30_000);
    assert.ok(client.bytes.equals(sent));
    client.socket.destroy();
  };
  // 80 streams need 160 buffers; in the second round, the first ones have released theirs.
  for (let round = 0; round < 2; round++) await Promise.all(Array.from({ length: 80 }, one));
  await far.close();
});

interface Ends {
  client: RawClient;
  upstream: Socket;
}

test("records how a tunnel ended and relays resets", async () => {
  const ends = {
    "client-end": ({ client }: Ends) => client.socket.end(),
    "upstream-end": ({ upstream }: Ends) => upstream.end(),
    "client-reset": ({ client }: Ends) => client.socket.resetAndDestroy(),
    "upstream-reset": ({ upstream }: Ends) => upstream.resetAndDestroy(),
  };
  for (const [close, end] of Object.entries(ends)) {
    const accepted = Promise.withResolvers<Socket>();
    let upstreamError: string | undefined;
    const far = await listen((socket) => {
      socket.on("error", (error: NodeJS.ErrnoException) => {
        upstreamError = error.code;
      });
      socket.once("data", () => socket.write("12345"));
      socket.on("end", () => socket.end());
      accepted.resolve(socket);
    });
    const client = await RawClient.open(proxy.port);
    client.socket.on("end", () => client.socket.end());
    await client.connect(`127.0.0.1:${far.port}`);
    client.socket.write("123");
    await client.untilText("12345");
    const upstream = await accepted.promise;
    const upstreamClosed = new Promise((resolve) => upstream.once("close", resolve));
    end({ client, upstream });
    await client.until(() => client.socket.closed, "close of the client");
    await upstreamClosed;
    const record = await recordOf(far.port);
    assert.deepEqual(
      [record.kind, record.verdict, record.code, record.close, record.bytesUp, record.bytesDown, record.address],
      ["connect", "allow", undefined, close, 3, 5, "127.0.0.1"],
    );
    assert.match(`${record.source} ${record.local}`, /^127\.0\.0\.1:\d+ 127\.0\.0\.1$/);
    assert.equal(upstreamError, close === "client-reset" ? "ECONNRESET" : undefined, close);
    assert.equal(client.error?.code, close === "upstream-reset" ? "ECONNRESET" : undefined, close);
    await far.close();
  }
});
test("the sender of a refused 1 MiB POST reads its whole 403", async () => {
  const client = await RawClient.open(proxy.port);
  client.socket.write(`POST http://10.0.0.5/ HTTP/1.1\r\nHost: x\r\nContent-Length: ${MiB}\r\n\r\n`);
  client.socket.write(Buffer.alloc(MiB));
  await client.untilEnd();
  assert.match(client.text, /^HTTP\/1\.1 403 egress-denied: 10\.0\.0\.5 is a private address/);
  const [head, body] = client.text.split("\r\n\r\n") as [string, string];
  assert.equal(Number(/Content-Length: (\d+)/.exec(head)![1]), body.length);
  client.socket.destroy();
});

test("cancels the dial when the client disconnects", async (t) => {
  // The dial itself would only end after two minutes.
  const patient = await startProxy({ policy: {}, args: [...OPEN_LOOPBACK, "--connect-seconds", "120"] });
  const deaf = await deafListener();
  t.after(async () => {
    deaf.close();
    await patient.stop();
  });
  const target = `127.0.0.1:${deaf.port}`;
  const wires = {
    connect: `CONNECT ${target} HTTP/1.1\r\n\r\n`,
    http: `GET http://${target}/ HTTP/1.1\r\nHost: x\r\n\r\n`,
  };
  for (const [kind, wire] of Object.entries(wires)) {
    const client = await RawClient.open(patient.port);
    client.socket.write(wire);
    await untilDialling(deaf.port, 1);
    client.socket.resetAndDestroy();
    await untilDialling(deaf.port, 0);
    const record = await patient.waitRecord((one) => one.kind === kind);
    assert.deepEqual([record.verdict, record.close, record.address], ["allow", "client-gone", undefined]);
    assert.equal(client.text, "");
  }
});

test("a silent target is a 504 after the connect time", async (t) => {
  const deaf = await deafListener();
  t.after(deaf.close);
  const client = await RawClient.open(proxy.port);
  client.socket.write(`CONNECT 127.0.0.1:${deaf.port} HTTP/1.1\r\n\r\n`);
  await client.untilEnd();
  assert.match(client.text, /^HTTP\/1\.1 504 egress-connect: 127\.0\.0\.1:\d+ did not answer within 2 s\r\n/);
  assert.match(client.text, /\r\nProxy-Status: outrider; error=connection_timeout\r\n/);
  await untilDialling(deaf.port, 0);
  const record = await recordOf(deaf.port);
  assert.deepEqual([record.code, record.close], ["timeout", "refused"]);
  client.socket.destroy();
});
