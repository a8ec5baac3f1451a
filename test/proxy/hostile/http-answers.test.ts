import assert from "node:assert/strict";
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Baseline } from "../../harness/baseline.ts";
import { OPEN_LOOPBACK, type ProxyHandle, startProxy } from "../../harness/proxy.ts";
import { exchange, listen, RawClient } from "../../harness/raw.ts";

/** Answers of hostile receivers on plain http: refused ones, changed ones, and the effect on other clients. */

/** Clients that read late: the sizes of their responses differ by less than the proxy buffers for one of them. */
const CLIENTS = 30;
const STEP_BYTES = 10_000;

let proxy: ProxyHandle;
before(async () => {
  proxy = await startProxy({ policy: {}, args: OPEN_LOOPBACK, hosts: "127.0.0.1 a.example b.example\n" });
});
after(async () => {
  assert.equal(await proxy.stop(), 0);
});

/** A receiver that answers the n-th request head of a connection with `answer(head, n)`. */
async function receiver(answer: (head: string, nth: number, socket: Socket) => string) {
  const seen = { heads: [] as string[], connections: 0 };
  const server = await listen((socket) => {
    seen.connections++;
    let pending = "";
    let nth = 0;
    socket.on("data", (chunk) => {
      pending += chunk.toString("latin1");
      for (let end = pending.indexOf("\r\n\r\n"); end !== -1; end = pending.indexOf("\r\n\r\n")) {
        const head = pending.slice(0, end + 4);
        pending = pending.slice(end + 4);
        seen.heads.push(head);
        socket.write(answer(head, ++nth, socket), "latin1");
      }
    });
    socket.on("end", () => socket.end());
  });
  return { ...server, seen };
}

const OK = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
/** The first line, so that a failed assertion is short. */
const status = (text: string): string => text.slice(0, text.indexOf("\r\n"));
const get = (port: number, path = "/", fields = ""): string =>
  `GET http://a.example:${port}${path} HTTP/1.1\r\nHost: x\r\n${fields}\r\n`;

/** One answer to a new client, from a receiver that sends only this. */
async function answered(answer: string, fields = ""): Promise<string> {
  const far = await receiver(() => answer);
  const text = await exchange(proxy.port, get(far.port, "/", `Connection: close\r\n${fields}`));
  await far.close();
  return status(text);
}

async function bound(name: string): Promise<number> {
  const { text } = await proxy.admin("/metrics");
  return Number(new RegExp(`outrider_proxy_bound_total\\{bound="${name}"\\} (\\d+)`).exec(text)?.[1]);
}

test("a 17th interim response is a 502", async () => {
  const baseline = await Baseline.of(proxy);
  const interim = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n";
  assert.match(await answered(interim.repeat(16) + OK), /^HTTP\/1\.1 200 OK$/);
  const before = await bound("response-head");
  assert.match(
    await answered(interim.repeat(17) + OK),
    /^HTTP\/1\.1 502 egress-connect: a\.example:\d+ sent more than 16 heads before its answer$/,
  );
  assert.equal(await bound("response-head"), before + 1);
  await baseline.restored(2);
});

test("accepts 256 fields and 64 Connection names, not more", async () => {
  const baseline = await Baseline.of(proxy);
  const fields = (count: number) => "a: b\r\n".repeat(count);
  const names = (count: number) => `Connection: ${Array.from({ length: count }, (_, i) => `n${i}`).join()}\r\n`;
  const answer = (extra: string) => `HTTP/1.1 200 OK\r\nContent-Length: 2\r\n${extra}\r\nok`;
  assert.match(await answered(answer(fields(255))), /^HTTP\/1\.1 200 /);
  assert.match(await answered(answer(fields(256))), /^HTTP\/1\.1 502 .*the head has more than 256 fields$/);
  assert.match(await answered(answer(names(64))), /^HTTP\/1\.1 200 /);
  assert.match(await answered(answer(names(65))), /^HTTP\/1\.1 502 .*Connection has more than 64 names$/);
  assert.match(await answered(OK, fields(254)), /^HTTP\/1\.1 200 /);
  assert.match(await answered(OK, fields(255)), /^HTTP\/1\.1 431 .*the head has more than 256 fields$/);
  assert.match(await answered(OK, names(63)), /^HTTP\/1\.1 200 /);
  assert.match(await answered(OK, names(64)), /^HTTP\/1\.1 431 .*Connection has more than 64 names$/);
  assert.ok((await bound("request-head")) >= 2);
  await baseline.restored(8);
});

test("more than 256 trailers end the response", async () => {
  const baseline = await Baseline.of(proxy);
  const far = await receiver(
    () => `HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n${"t:\r\n".repeat(257)}\r\n`,
  );
  const client = await RawClient.open(proxy.port);
  client.socket.write(get(far.port));
  await client.until(() => client.socket.destroyed, "reset");
  assert.equal(client.error?.code, "ECONNRESET");
  assert.equal(await bound("body-lines"), 1);
  await far.close();
  await baseline.restored(1);
});

/** Bytes of an endless response for a client that does not read: the buffers of kernel and proxy. */
async function buffered(port: number): Promise<number> {
  const client = connect(proxy.port, "127.0.0.1");
  await once(client, "connect");
  const source = `127.0.0.1:${client.localPort}`;
  client.write(get(port, "/16000000"));
  client.pause();
  await sleep(1000);
  client.resetAndDestroy();
  const { bytesDown } = await proxy.waitRecord((record) => record.source === source);
  return Number(bytesDown);
}

test("late readers get a complete response without length", async () => {
  const baseline = await Baseline.of(proxy);
  const far = await listen((socket) => {
    socket.once("data", (chunk) => {
      const size = Number(/^GET \/(\d+)/.exec(String(chunk))![1]);
      socket.end(`HTTP/1.1 200 OK\r\n\r\n${"x".repeat(size)}`);
    });
  });
  const most = await buffered(far.port);
  const sizes = Array.from({ length: CLIENTS }, (_, i) => most + 60_000 - i * STEP_BYTES);
  const receive = async (size: number): Promise<number> => {
    const socket = connect(proxy.port, "127.0.0.1");
    socket.write(get(far.port, `/${size}`));
    socket.pause();
    // Longer than the proxy waits for a client that has nothing left to read.
    await sleep(1500);
    let received = 0;
    socket.on("data", (chunk) => {
      received += chunk.length;
    });
    socket.resume();
    await once(socket, "end");
    socket.destroy();
    return received;
  };
  const received = await Promise.all(sizes.map(receive));
  for (const [i, size] of sizes.entries()) assert.ok(received[i]! > size, `${received[i]} bytes of ${size}`);
  await far.close();
  await baseline.restored(CLIENTS + 1);
});
