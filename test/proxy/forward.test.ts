import assert from "node:assert/strict";
import type { Socket } from "node:net";
import { after, before, test } from "node:test";
import { OPEN_LOOPBACK, type ProxyHandle, startProxy } from "../harness/proxy.ts";
import { exchange, listen, RawClient } from "../harness/raw.ts";

/** A receiver that keeps every byte and answers each request head with the result of `answer`. */
async function receiver(answer: (head: string, socket: Socket, nth: number) => void) {
  const state = { text: "", heads: [] as string[], connections: 0 };
  const server = await listen((socket) => {
    state.connections++;
    let pending = "";
    socket.on("data", (chunk) => {
      state.text += chunk.toString("latin1");
      pending += chunk.toString("latin1");
      for (let end = pending.indexOf("\r\n\r\n"); end !== -1; end = pending.indexOf("\r\n\r\n")) {
        // Bytes before the method are the body of the previous request.
        const start = pending.search(/[A-Z]{3,} \//);
        const head = pending.slice(start, end + 4);
        pending = pending.slice(end + 4);
        if (start === -1 || start > end) continue;
        state.heads.push(head);
        answer(head, socket, state.heads.length);
      }
    });
    socket.on("end", () => socket.end());
  });
  return { ...server, state };
}

const ok = (body: string): string => `HTTP/1.1 200 OK\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
let proxy: ProxyHandle;
before(async () => {
  proxy = await startProxy({
    policy: { defaultAction: "Allow", deny: [{ name: "bad", hosts: ["denied.example"] }] },
    args: OPEN_LOOPBACK,
    hosts: "127.0.0.1 a.example b.example denied.example\n",
  });
});
after(async () => {
  assert.equal(await proxy.stop(), 0);
});

test("forwards end-to-end headers unchanged", async () => {
  const far = await receiver((_, socket) => socket.write(ok("hi")));
  const answer = await exchange(
    proxy.port,
    `POST http://a.example:${far.port}/p?q=1 HTTP/1.1\r\nX-Case: MiXed\r\nHOST: evil.example\r\nproxy-authorization: Basic OnM=\r\n` +
      "Connection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\nUpgrade: websocket\r\nAccept-Encoding: br\r\n" +
      "Proxy-Connection: keep-alive\r\nx-last:  two  words \r\nContent-Length: 3\r\n\r\nabc",
  );
  assert.equal(
    far.state.text,
    `POST /p?q=1 HTTP/1.1\r\nX-Case: MiXed\r\nHOST: a.example:${far.port}\r\nAccept-Encoding: br\r\nx-last: two  words\r\n` +
      "Content-Length: 3\r\nVia: 1.1 outrider\r\n\r\nabc",
  );
  assert.equal(answer, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nVia: 1.1 outrider\r\nConnection: close\r\n\r\nhi");
  await far.close();
});

test("decides each request of a connection independently", async () => {
  const far = await receiver((head, socket) => socket.write(ok(/Host: (\S+?):/.exec(head)![1]!)));
  const client = await RawClient.open(proxy.port);
  const get = (host: string) => client.socket.write(`GET http://${host}:${far.port}/ HTTP/1.1\r\nHost: x\r\n\r\n`);
  for (const [i, host] of ["a.example", "b.example", "a.example"].entries()) {
    get(host);
    await client.until(
      () => client.text.split("HTTP/1.1 200").length === i + 2 && client.text.endsWith(host),
      `answer ${i}`,
    );
  }
  assert.equal(far.state.connections, 2);
  get("denied.example");
  await client.untilEnd();
  assert.match(
    client.text,
    /HTTP\/1\.1 403 egress-denied: denied\.example is denied by rule bad; policy test\/test\r\n/,
  );
  assert.equal(far.state.heads.length, 3);
  client.socket.destroy();
  await far.close();
});

test("answers pipelined requests in order", async () => {
  const far = await receiver((head, socket) => socket.write(ok(/GET (\S+)/.exec(head)![1]!)));
  const client = await RawClient.open(proxy.port);
  const get = (path: string) => `GET http://a.example:${far.port}${path} HTTP/1.1\r\nHost: x\r\n\r\n`;
  client.socket.write(get("/n1") + get("/n2") + get("/n3"));
  await client.untilText("/n3");
  assert.deepEqual(client.text.match(/\/n[123]/g), ["/n1", "/n2", "/n3"]);
  client.socket.destroy();
  await far.close();
});

test("relays chunked bodies without extensions and trailers", async () => {
  const response =
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n5;x=y\r\nhello\r\n0\r\nX-T: 1\r\n\r\n";
  const far = await receiver((_, socket) => {
    // An answer to an incomplete request would close the connection.
    const answer = () => (far.state.text.endsWith("\r\n0\r\n\r\n") ? socket.write(response) : setImmediate(answer));
    answer();
  });
  const client = await RawClient.open(proxy.port);
  client.socket.write(`POST http://a.example:${far.port}/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n`);
  client.socket.write("3;ext\r\nabc\r\n");
  client.socket.write("2\r\nde\r\n0\r\nT: v\r\n\r\n");
  await client.untilText("0\r\n\r\n");
  assert.equal(
    client.text,
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nVia: 1.1 outrider\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
  );
  // Chunks that arrive together may become one.
  assert.match(
    far.state.text,
    /Transfer-Encoding: chunked\r\nVia: 1\.1 outrider\r\n\r\n(3\r\nabc\r\n2\r\nde|5\r\nabcde)\r\n0\r\n\r\n$/,
  );
  client.socket.destroy();
  await far.close();
});

test("Expect: 100-continue, HEAD, 204 and 304", async () => {
  const far = await receiver((head, socket) => {
    if (head.startsWith("POST")) socket.write("HTTP/1.1 100 Continue\r\n\r\n");
    else if (head.startsWith("HEAD")) socket.write("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n");
    else if (head.startsWith("GET /204")) socket.write("HTTP/1.1 204 No Content\r\n\r\n");
    else if (head.startsWith("GET /304")) socket.write("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n");
  });
  const client = await RawClient.open(proxy.port);
  const uri = `http://a.example:${far.port}`;
  client.socket.write(`POST ${uri}/ HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n`);
  await client.untilText("HTTP/1.1 100 Continue\r\n");
  client.socket.write("ok");
  await new Promise<void>((resolve) => {
    const look = () => (far.state.text.endsWith("ok") ? resolve() : setTimeout(look, 5));
    look();
  });
  for (const socket of far.sockets) socket.write(ok("done"));
  await client.untilText("done");
  for (const [request, status] of [
    ["HEAD /", "200 OK"],
    ["GET /204", "204 No Content"],
    ["GET /304", "304 Not Modified"],
  ] as const) {
    const [method, path] = request.split(" ") as [string, string];
    client.socket.write(`${method} ${uri}${path} HTTP/1.1\r\nHost: x\r\n\r\n`);
    await client.until(() => client.text.includes(status) && client.text.endsWith("\r\n\r\n"), status);
  }
  client.socket.destroy();
  await far.close();
});

test("a response without length ends with its connection", async () => {
  const far = await receiver((head, socket) => {
    if (head.startsWith("GET /open")) socket.end("HTTP/1.1 200 OK\r\n\r\nuntil the end");
    else socket.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n");
  });
  const open = await exchange(proxy.port, `GET http://a.example:${far.port}/open HTTP/1.1\r\nHost: x\r\n\r\n`);
  assert.equal(open, "HTTP/1.1 200 OK\r\nVia: 1.1 outrider\r\nConnection: close\r\n\r\nuntil the end");
  const old = await exchange(proxy.port, `GET http://a.example:${far.port}/ HTTP/1.0\r\n\r\n`);
  assert.ok(old.endsWith("Connection: close\r\n\r\nabc"), old);
  assert.match(far.state.text, /Host: a\.example/);
  await far.close();
});

test("a broken upstream gives 502 before its head, else a reset", async () => {
  const far = await receiver((head, socket) => {
    if (head.startsWith("GET /nothing")) socket.destroy();
    else if (head.startsWith("GET /garbage")) socket.write("SSH-2.0-OpenSSH\r\n");
    else if (head.startsWith("GET /101")) socket.write("HTTP/1.1 101 Switching Protocols\r\n\r\n");
    else socket.end("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort");
  });
  const get = (path: string) =>
    exchange(proxy.port, `GET http://a.example:${far.port}${path} HTTP/1.1\r\nHost: x\r\n\r\n`);
  assert.match(await get("/nothing"), /^HTTP\/1\.1 502 egress-connect: a\.example:\d+ closed without an answer/);
  assert.match(await get("/garbage"), /^HTTP\/1\.1 502 egress-connect: a\.example:\d+ answered with broken HTTP/);
  assert.match(await get("/101"), /^HTTP\/1\.1 502 egress-connect: .* switched protocols/);
  const client = await RawClient.open(proxy.port);
  client.socket.write(`GET http://a.example:${far.port}/short HTTP/1.1\r\nHost: x\r\n\r\n`);
  await client.until(() => client.socket.destroyed, "close");
  assert.equal(client.error?.code, "ECONNRESET");
  await far.close();
});

test("never sends a POST of a failed reused connection again", async () => {
  const far = await receiver((_, socket, nth) => {
    if (nth === 1) socket.write(ok("one"));
    else socket.destroy();
  });
  const client = await RawClient.open(proxy.port);
  const post = `POST http://a.example:${far.port}/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx`;
  client.socket.write(post);
  await client.untilText("one");
  client.socket.write(post);
  await client.untilEnd();
  assert.match(
    client.text,
    /HTTP\/1\.1 502 egress-connect: a\.example:\d+ closed a kept-alive connection without an answer/,
  );
  assert.equal(far.state.heads.length, 2);
  client.socket.destroy();
  await far.close();
});

test("refuses smuggling attempts and origin-form requests", async () => {
  const far = await receiver((_, socket) => socket.write(ok("never")));
  const uri = `http://a.example:${far.port}`;
  const rows: [string, RegExp][] = [
    [
      `POST ${uri}/ HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
      /^HTTP\/1\.1 400 egress-bad-request: both/,
    ],
    [`GET http://u:p@a.example:${far.port}/ HTTP/1.1\r\nHost: x\r\n\r\n`, /^HTTP\/1\.1 400 /],
    ["GET / HTTP/1.1\r\nHost: x\r\n\r\n", /^HTTP\/1\.1 400 egress-bad-request: this is a forward proxy/],
    [
      "GET https://a.example/ HTTP/1.1\r\nHost: x\r\n\r\n",
      /^HTTP\/1\.1 400 egress-bad-request: https goes through CONNECT/,
    ],
    ["CONNECT a.example HTTP/1.1\r\n\r\n", /^HTTP\/1\.1 400 /],
    ["CONNECT 127.1:80 HTTP/1.1\r\n\r\n", /^HTTP\/1\.1 400 /],
    [`GET ${uri}/ HTTP/1.1\r\nHost: x\r\nX: ${"y".repeat(20_000)}\r\n\r\n`, /^HTTP\/1\.1 431 egress-bad-request:/],
  ];
  for (const [wire, expected] of rows) assert.match(await exchange(proxy.port, wire), expected);
  assert.equal(far.state.text, "");
  const post = `POST ${uri}/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n`;
  const bad = await exchange(proxy.port, `${post}0x3\r\nabc\r\n0\r\n\r\n`);
  assert.match(bad, /^HTTP\/1\.1 400 egress-bad-request: a chunk size/);
  const long = await exchange(proxy.port, `${post}3\r\nabcd\r\n0\r\n\r\n`);
  assert.match(long, /^HTTP\/1\.1 400 egress-bad-request: a chunk is longer than its size says/);
  await far.close();
});

test("answers a client that half-closes before the upstream connects", async () => {
  const far = await receiver((_, socket) => socket.write(ok("hi")));
  const client = await RawClient.open(proxy.port);
  client.socket.end(
    `POST http://a.example:${far.port}/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n`,
  );
  await client.untilEnd();
  assert.match(client.text, /^HTTP\/1\.1 200 OK\r\n[\s\S]*\r\nConnection: close\r\n\r\nhi$/);
  const cut = await RawClient.open(proxy.port);
  cut.socket.end(`POST http://a.example:${far.port}/cut HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nab`);
  await cut.untilEnd();
  assert.equal(cut.text, "");
  await proxy.waitRecord((record) => record.close === "client-gone" && record.target === `a.example:${far.port}`);
  for (const { socket } of [client, cut]) socket.destroy();
  await far.close();
});

test("notices a client that disconnects while its upstream does not read", async () => {
  const far = await listen((socket) => socket.once("data", () => socket.pause().write(ok("hi"))));
  const request = (length: number) =>
    `POST http://a.example:${far.port}/ HTTP/1.1\r\nHost: x\r\nContent-Length: ${length}\r\n\r\n${"b".repeat(length)}`;
  const client = await RawClient.open(proxy.port);
  client.socket.write(request(10));
  await client.untilText("hi");
  const [upstream] = far.sockets;
  // The receiver answers and does not read, until the proxy itself has to keep more bytes than it wants to.
  for (let buffered = 0; buffered < 65_536; ) {
    const { length } = client.bytes;
    client.socket.write(request(40_000));
    buffered = (await proxy.untilStatus(({ active }) => active === 1)).bufferedBytes;
    upstream!.write(ok("hi"));
    await client.until(() => client.bytes.length > length && client.text.endsWith("hi"), "the answer");
    await proxy.untilStatus(({ active }) => active === 0);
  }
  client.socket.write(request(1000));
  await proxy.untilStatus(({ active }) => active === 1);
  client.socket.resetAndDestroy();
  await proxy.waitRecord(({ close, bytesUp }) => close === "client-gone" && bytesUp === 1000);
  await far.close();
});

test("answers every request that precedes a half-close", async () => {
  const far = await receiver((head, socket) => socket.write(ok(/GET (\S+)/.exec(head)![1]!)));
  const get = (path: string) => `GET http://a.example:${far.port}${path} HTTP/1.1\r\nHost: x\r\n\r\n`;
  const before = proxy.records().length;
  const client = await RawClient.open(proxy.port);
  client.socket.end(`${get("/n1")}${get("/n2")}${get("/n3")}GET http://cut`);
  await client.untilEnd();
  assert.deepEqual(client.text.match(/\/n[123]/g), ["/n1", "/n2", "/n3"]);
  client.socket.destroy();
  await proxy.waitRecord(() => proxy.records().length === before + 3);
  const tunnelled = await RawClient.open(proxy.port);
  tunnelled.socket.end(`${get("/n4")}CONNECT a.example:${far.port} HTTP/1.1\r\n\r\nGET /n5 HTTP/1.1\r\n\r\n`);
  await tunnelled.untilEnd();
  assert.deepEqual(tunnelled.text.match(/\/n[45]/g), ["/n4", "/n5"]);
  tunnelled.socket.destroy();
  await far.close();
});

test("forwards OPTIONS and TRACE according to Max-Forwards", async () => {
  const far = await receiver((_, socket) => socket.write(ok("")));
  const ask = (method: string, value: string) =>
    exchange(
      proxy.port,
      `${method} http://a.example:${far.port}/p HTTP/1.1\r\nHost: x\r\nConnection: close\r\nMax-Forwards: ${value}\r\n\r\n`,
    );
  const here = "Allow: OPTIONS\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
  assert.equal(await ask("OPTIONS", "0"), `HTTP/1.1 200 OK\r\n${here}`);
  assert.equal(await ask("TRACE", "000"), `HTTP/1.1 405 Method Not Allowed\r\n${here}`);
  assert.match(await ask("OPTIONS", "x"), /^HTTP\/1\.1 400 egress-bad-request: Max-Forwards is not a number\r\n/);
  assert.match(await ask("TRACE", "1\r\nmax-forwards: 0"), /^HTTP\/1\.1 400 egress-bad-request: two Max-Forwards/);
  assert.deepEqual(far.state.heads, []);
  assert.match(await ask("OPTIONS", "3"), /^HTTP\/1\.1 200 /);
  assert.match(await ask("TRACE", "9".repeat(400)), /^HTTP\/1\.1 200 /);
  assert.match(await ask("GET", "0"), /^HTTP\/1\.1 200 /);
  assert.deepEqual(
    far.state.heads.map((head) => /Max-Forwards: (\d+)/.exec(head)?.[1]),
    ["2", "2147483646", "0"],
  );
  await far.close();
});

test("Max-Forwards: 0 needs credentials and an allowed target", async () => {
  const denied = await exchange(
    proxy.port,
    "OPTIONS http://denied.example/ HTTP/1.1\r\nHost: x\r\nMax-Forwards: 0\r\n\r\n",
  );
  assert.match(denied, /^HTTP\/1\.1 403 egress-denied: /);
  const locked = await startProxy({ policy: {}, args: OPEN_LOOPBACK, env: { PROXY_PASSWORD: "s3cret" } });
  const ask = (fields: string) =>
    exchange(locked.port, `OPTIONS http://127.0.0.1:9999/ HTTP/1.1\r\nHost: x\r\nMax-Forwards: 0\r\n${fields}\r\n`);
  assert.match(await ask(""), /^HTTP\/1\.1 407 egress-auth: /);
  const authorization = `Proxy-Authorization: Basic ${Buffer.from("any:s3cret").toString("base64")}\r\n`;
  assert.match(await ask(authorization), /^HTTP\/1\.1 200 OK\r\nAllow: OPTIONS\r\n/);
  assert.equal(await locked.stop(), 0);
});

test("forwards OPTIONS for a URI without a path as *", async () => {
  const lines: string[] = [];
  const far = await listen((socket) => {
    socket.on("data", (chunk) => {
      lines.push(String(chunk).split("\r\n")[0]!);
      socket.end(ok(""));
    });
  });
  for (const path of ["", "/", "?q", "/p"]) {
    const uri = `http://a.example:${far.port}${path}`;
    await exchange(proxy.port, `OPTIONS ${uri} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`);
  }
  assert.deepEqual(
    lines,
    ["*", "/", "/?q", "/p"].map((target) => `OPTIONS ${target} HTTP/1.1`),
  );
  await far.close();
});

test("an HTTP/1.0 answer with Transfer-Encoding is a 502", async () => {
  for (const extra of ["", "Content-Length: 3\r\n"]) {
    const far = await receiver((_, socket) =>
      socket.end(`HTTP/1.0 200 OK\r\n${extra}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n`),
    );
    const answer = await exchange(proxy.port, `GET http://a.example:${far.port}/ HTTP/1.1\r\nHost: x\r\n\r\n`);
    assert.match(answer, /^HTTP\/1\.1 502 egress-connect: a\.example:\d+ answered with broken HTTP: /);
    await far.close();
  }
});

test("removes body framing of 1xx and 204 and drops the connection", async () => {
  for (const framing of ["Content-Length: 5", "Transfer-Encoding: chunked"]) {
    for (const status of ["204 No Content", "103 Early Hints"]) {
      const final = status.startsWith("204") ? "" : ok("ok");
      const far = await receiver((_, socket) => socket.write(`HTTP/1.1 ${status}\r\n${framing}\r\n\r\n${final}`));
      const client = await RawClient.open(proxy.port);
      for (const count of [1, 2]) {
        client.socket.write(`GET http://a.example:${far.port}/ HTTP/1.1\r\nHost: x\r\n\r\n`);
        await client.until(() => client.text.split("HTTP/1.1").length === count + 1, `answer ${count}`);
      }
      assert.equal(far.state.connections, 2);
      if (final === "") assert.doesNotMatch(client.text, /content-length|transfer-encoding/i);
      client.socket.destroy();
      await far.close();
    }
  }
});

test("never shares connections authenticated by NTLM or Negotiate", async () => {
  const far = await receiver((head, socket) => {
    const asks = /\/401/.test(head) ? "WWW-Authenticate: Basic realm=x, NTLM TlRM\r\n" : "";
    socket.write(`HTTP/1.1 200 OK\r\n${asks}Content-Length: 5\r\n\r\n${String(socket.remotePort).padEnd(5)}`);
  });
  const clients = await Promise.all([1, 2].map(() => RawClient.open(proxy.port)));
  let answers = 0;
  /** The port of the upstream connection that a request of a client used. */
  const via = async (index: number, path: string, fields = ""): Promise<string> => {
    const client = clients[index]!;
    const from = client.text.length;
    client.socket.write(`GET http://a.example:${far.port}${path} HTTP/1.1\r\nHost: x\r\n${fields}\r\n`);
    await client.until(() => /\r\n\r\n.{5}$/.test(client.text.slice(from)), `answer ${++answers}`);
    return client.text.slice(-5);
  };
  // The first request of a client gets a connection of its own, and later ones share the last one used.
  await via(0, "/");
  const shared = await via(1, "/");
  assert.equal(await via(0, "/"), shared);
  assert.equal(await via(1, "/", "Authorization: Basic eDp5\r\n"), shared);
  assert.equal(await via(0, "/", "Authorization: NTLM TlRM\r\n"), shared);
  const other = await via(1, "/");
  assert.notEqual(other, shared);
  // Its own client keeps it, and it stays bound without further credentials.
  assert.equal(await via(0, "/"), shared);
  assert.equal(await via(1, "/"), other);
  assert.equal(await via(1, "/401"), other);
  clients[0]!.socket.destroy();
  clients.push(await RawClient.open(proxy.port));
  const third = await via(2, "/");
  assert.ok(third !== shared && third !== other);
  assert.equal(await via(2, "/"), third);
  for (const client of clients) client.socket.destroy();
  await far.close();
});
