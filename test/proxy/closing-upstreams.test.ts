import assert from "node:assert/strict";
import type { Socket } from "node:net";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { startDns } from "../harness/dns.ts";
import { OPEN_LOOPBACK, type ProxyHandle, startProxy } from "../harness/proxy.ts";
import { exchange, listen, RawClient } from "../harness/raw.ts";

/** Kept upstream connections that the receiver closes just when a request arrives on them. */

let proxy: ProxyHandle;
before(async () => {
  proxy = await startProxy({ policy: {}, args: OPEN_LOOPBACK, hosts: "127.0.0.1 a.example\n" });
});
after(async () => {
  assert.equal(await proxy.stop(), 0);
});

const OK = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/** A receiver that calls `serve` for each request: the number of its connection, and its number on this connection. */
async function receiver(serve: (socket: Socket, connection: number, nth: number) => void) {
  const state = { connections: 0, requests: [] as string[] };
  const server = await listen((socket) => {
    const connection = ++state.connections;
    let nth = 0;
    socket.on("data", (chunk) => {
      state.requests.push(String(chunk).split(" HTTP/1.1")[0]!);
      serve(socket, connection, ++nth);
    });
    socket.on("end", () => socket.end());
  });
  return { ...server, state, target: `a.example:${server.port}` };
}

/** Serves the first request of each connection, and closes the connection at the second one. */
const closing = (close: (socket: Socket) => void) => (socket: Socket, _connection: number, nth: number) =>
  nth === 1 ? void socket.write(OK) : close(socket);

const request = (method: string, target: string, fields = "", body = ""): string =>
  `${method} http://${target}/${method} HTTP/1.1\r\nHost: x\r\n${fields}\r\n${body}`;

/** A client whose first request was answered, so that the proxy keeps an upstream connection. */
async function warmClient(target: string): Promise<RawClient> {
  const client = await RawClient.open(proxy.port);
  client.socket.write(request("GET", target));
  await client.untilText("\r\n\r\nok");
  return client;
}

/** The last record of a target after `count` requests. */
async function lastRecord(target: string, count: number) {
  const records = () => proxy.records().filter((record) => record.target === target);
  await proxy.waitRecord(() => records().length >= count);
  assert.equal(records().length, count);
  return records().at(-1)!;
}

const CLOSES: Record<string, (socket: Socket) => void> = {
  FIN: (socket) => void socket.end(),
  RST: (socket) => void socket.resetAndDestroy(),
};
for (const [how, close] of Object.entries(CLOSES)) {
  for (const method of ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"]) {
    test(`sends a ${method} once more on a new connection after ${how}`, async () => {
      const far = await receiver(closing(close));
      const client = await warmClient(far.target);
      const from = client.text.length;
      client.socket.write(request(method, far.target, method === "PUT" ? "Content-Length: 0\r\n" : ""));
      await client.until(() => client.text.slice(from).includes("\r\n\r\n"), "answer");
      assert.match(client.text.slice(from), /^HTTP\/1\.1 200 OK\r\n/);
      client.socket.destroy();
      assert.deepEqual(far.state.requests, ["GET /GET", `${method} /${method}`, `${method} /${method}`]);
      const record = await lastRecord(far.target, 2);
      assert.deepEqual([record.retried, record.close, record.code], [true, "complete", undefined]);
      assert.equal(typeof record.connectMs, "number");
      await far.close();
    });
  }

  for (const [what, method, fields, body] of [
    ["a POST", "POST", "", ""],
    ["a PATCH", "PATCH", "", ""],
    ["a GET with a body", "GET", "Content-Length: 2\r\n", "hi"],
    ["a PUT with chunks", "PUT", "Transfer-Encoding: chunked\r\n", "0\r\n\r\n"],
  ] as const) {
    test(`never sends ${what} twice after ${how}`, async () => {
      const far = await receiver((socket, _connection, nth) => {
        if (nth === 1) socket.write(OK);
        // A body may come in a read of its own.
        else close(socket);
      });
      const client = await warmClient(far.target);
      client.socket.write(request(method, far.target, fields, body));
      await client.untilEnd();
      assert.match(
        client.text,
        /ok\r?\n?HTTP\/1\.1 502 egress-connect: a\.example:\d+ closed a kept-alive connection without/,
      );
      assert.match(client.text, /\r\nProxy-Status: outrider; error=connection_terminated\r\n/);
      client.socket.destroy();
      assert.equal(far.state.connections, 1);
      const record = await lastRecord(far.target, 2);
      assert.deepEqual([record.retried, record.close, record.code], [undefined, "refused", "reset"]);
      await far.close();
    });
  }
}

test("sends a request once more only if no byte of its answer arrived", async () => {
  const far = await receiver(closing((socket) => void socket.end("H")));
  const client = await warmClient(far.target);
  client.socket.write(request("GET", far.target));
  await client.untilEnd();
  assert.match(
    client.text,
    /HTTP\/1\.1 502 egress-connect: a\.example:\d+ closed a kept-alive connection without an answer/,
  );
  client.socket.destroy();
  assert.equal(far.state.requests.length, 2);
  assert.equal((await lastRecord(far.target, 2)).retried, undefined);
  await far.close();
});

test("an interim response counts as a byte of the answer", async () => {
  const far = await receiver(closing((socket) => void socket.end("HTTP/1.1 103 Early Hints\r\n\r\n")));
  const client = await warmClient(far.target);
  client.socket.write(request("GET", far.target));
  await client.untilEnd();
  assert.match(client.text, /HTTP\/1\.1 502 /);
  client.socket.destroy();
  assert.equal(far.state.requests.length, 2);
  await far.close();
});

test("sends a request twice at most", async () => {
  const far = await receiver((socket, connection, nth) => {
    if (connection === 1 && nth === 1) socket.write(OK);
    else socket.destroy();
  });
  const client = await warmClient(far.target);
  client.socket.write(request("GET", far.target));
  await client.untilEnd();
  assert.match(client.text, /HTTP\/1\.1 502 egress-connect: a\.example:\d+ closed without an answer/);
  client.socket.destroy();
  assert.deepEqual([far.state.requests.length, far.state.connections], [3, 2]);
  const record = await lastRecord(far.target, 2);
  assert.deepEqual([record.retried, record.close, record.code], [true, "refused", "reset"]);
  await far.close();
});

test("never sends a request to a second closing connection", async () => {
  const far = await receiver(closing((socket) => void socket.destroy()));
  // The proxy keeps a connection of each of three clients, and all of them close at the next request.
  const clients = [await warmClient(far.target), await warmClient(far.target), await warmClient(far.target)];
  clients[0]!.socket.write(request("GET", far.target));
  await clients[0]!.until(() => clients[0]!.text.split("\r\n\r\nok").length === 3, "answer");
  for (const client of clients) client.socket.destroy();
  assert.deepEqual([far.state.requests.length, far.state.connections], [5, 4]);
  await far.close();
});

test("never repeats a request on a connection that was not reused", async () => {
  const far = await receiver((socket) => void socket.destroy());
  const client = await RawClient.open(proxy.port);
  client.socket.write(request("GET", far.target));
  await client.untilEnd();
  assert.match(client.text, /^HTTP\/1\.1 502 egress-connect: a\.example:\d+ closed without an answer/);
  client.socket.destroy();
  assert.equal(far.state.requests.length, 1);
  await far.close();
});

test("the first request of a client gets a new upstream connection", async () => {
  const far = await receiver(closing((socket) => void socket.destroy()));
  for (const count of [1, 2, 3]) {
    const client = await RawClient.open(proxy.port);
    client.socket.write(request("POST", far.target, "Content-Length: 0\r\n"));
    await client.untilText("\r\n\r\nok");
    client.socket.destroy();
    assert.equal(far.state.connections, count);
  }
  await far.close();
});

test("later requests of a client share the connections of all clients", async () => {
  const far = await receiver((socket) => void socket.write(OK));
  const clients = [await warmClient(far.target), await warmClient(far.target)];
  for (const count of [2, 3, 4]) {
    for (const client of clients) {
      client.socket.write(request("POST", far.target, "Content-Length: 0\r\n"));
      await client.until(() => client.text.split("ok").length > count, `answer ${count}`);
    }
  }
  for (const client of clients) client.socket.destroy();
  assert.equal(far.state.connections, 2);
  await far.close();
});

test("pipelined requests behind a repeated one keep their order", async () => {
  const far = await receiver(closing((socket) => void socket.destroy()));
  const client = await warmClient(far.target);
  const paths = ["/1", "/2", "/3"];
  const pipelined = paths.map((path) => `GET http://${far.target}${path} HTTP/1.1\r\nHost: x\r\n\r\n`).join("");
  // The client half-closes as well: it waits for all its answers.
  client.socket.end(pipelined);
  await client.untilEnd();
  assert.equal(client.text.split("HTTP/1.1 200 OK\r\n").length - 1, 4);
  client.socket.destroy();
  // Each connection serves one request, and is closed at the second one.
  const repeated = paths.flatMap((path) => [`GET ${path}`, `GET ${path}`]);
  assert.deepEqual(far.state.requests.slice(1), repeated);
  await far.close();
});

test("a client that disconnects during the second attempt ends it", async () => {
  const second = Promise.withResolvers<void>();
  const far = await receiver((socket, connection, nth) => {
    if (connection === 2) second.resolve();
    else if (nth === 1) socket.write(OK);
    else socket.destroy();
  });
  const client = await warmClient(far.target);
  client.socket.write(request("GET", far.target));
  await second.promise;
  client.socket.resetAndDestroy();
  const record = await lastRecord(far.target, 2);
  assert.deepEqual([record.retried, record.close], [true, "client-gone"]);
  await proxy.untilStatus(({ active, connections }) => active === 0 && connections === 0);
  await far.close();
});

test("resolves and vets the name again before the second attempt", async () => {
  let address = "127.0.0.1";
  const dns = await startDns((_, type) => ({ addresses: type === "A" ? [address] : [], ttl: 5 }));
  const own = await startProxy({ policy: {}, args: [...OPEN_LOOPBACK, "--resolver", dns.address] });
  const held: Socket[] = [];
  const far = await receiver(closing((socket) => void held.push(socket)));
  const target = `rebound.example:${far.port}`;
  const client = await RawClient.open(own.port);
  client.socket.write(request("GET", target));
  await client.untilText("\r\n\r\nok");
  client.socket.write(request("GET", target));
  await own.untilStatus(({ active }) => active === 1);
  address = "10.0.0.5";
  // The receiver closes when the cached answer has expired (5 s).
  for (let text = ""; !text.startsWith("HTTP/1.1 403 "); ) {
    await sleep(200);
    text = await exchange(own.port, request("POST", target, "Connection: close\r\nContent-Length: 0\r\n"));
  }
  assert.equal(held.length, 1);
  held[0]!.destroy();
  await client.untilEnd();
  assert.match(
    client.text,
    /HTTP\/1\.1 403 egress-denied: rebound\.example resolves to a private address \(10\.0\.0\.0\/8\)/,
  );
  client.socket.destroy();
  const record = await own.waitRecord(({ retried }) => retried === true);
  assert.deepEqual([record.verdict, record.code, record.addresses], ["deny", "address", ["10.0.0.5"]]);
  assert.equal(await own.stop(), 0);
  await far.close();
  await dns.close();
});

test("sends a request once more during a graceful shutdown", async () => {
  const env = { OUTRIDER_DRAIN_SECONDS: "30" };
  const own = await startProxy({ policy: {}, args: OPEN_LOOPBACK, env, hosts: "127.0.0.1 a.example\n" });
  const held = Promise.withResolvers<Socket>();
  const far = await receiver(closing(held.resolve));
  const client = await RawClient.open(own.port);
  client.socket.write(request("GET", far.target));
  await client.untilText("\r\n\r\nok");
  client.socket.write(request("GET", far.target));
  const socket = await held.promise;
  own.signal("SIGTERM");
  await own.untilStatus(({ phase }) => phase === "draining");
  socket.destroy();
  await client.untilEnd();
  assert.match(client.text, /okHTTP\/1\.1 200 OK\r\n[\s\S]*\r\nConnection: close\r\n\r\nok$/);
  client.socket.destroy();
  assert.equal(await own.stop(), 0);
  await far.close();
});

test("a request that is sent once more counts once against the limits", async () => {
  const own = await startProxy({
    policy: {},
    args: [...OPEN_LOOPBACK, "--max-tunnels", "1"],
    hosts: "127.0.0.1 a.example\n",
  });
  const far = await receiver(closing((socket) => void socket.destroy()));
  const client = await RawClient.open(own.port);
  for (const count of [1, 2, 3, 4]) {
    client.socket.write(request("GET", far.target));
    await client.until(() => client.text.split("\r\n\r\nok").length > count, `answer ${count}`);
  }
  await own.untilStatus(({ active }) => active === 0);
  client.socket.destroy();
  assert.equal(await own.stop(), 0);
  assert.deepEqual(
    own.records().map(({ retried }) => retried),
    [undefined, true, true, true],
  );
  await far.close();
});
