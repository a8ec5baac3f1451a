import assert from "node:assert/strict";
import { once } from "node:events";
import { after, before, test } from "node:test";
import { OPEN_LOOPBACK, type ProxyHandle, startProxy } from "../harness/proxy.ts";
import { exchange, listen, RawClient } from "../harness/raw.ts";

/** Malformed answers of receivers: those that RFC 9112 allows to repair are delivered, all others are refused. */

let proxy: ProxyHandle;
before(async () => {
  proxy = await startProxy({ policy: {}, args: OPEN_LOOPBACK, hosts: "127.0.0.1 a.example\n" });
});
after(async () => {
  assert.equal(await proxy.stop(), 0);
});

/** A receiver that answers everything with these bytes. */
async function receiver(answer: string) {
  const state = { connections: 0, paths: [] as string[] };
  const server = await listen((socket) => {
    state.connections++;
    socket.on("data", (chunk) => {
      state.paths.push(/ (\S+) /.exec(String(chunk))![1]!);
      socket.write(answer, "latin1");
    });
    socket.on("end", () => socket.end());
  });
  const uri = `http://a.example:${server.port}`;
  return { ...server, state, uri };
}

const SECOND = "HTTP/1.1 200 OK\r\nX-Forged: 1\r\nContent-Length: 6\r\n\r\nforged";
const CHUNKED = "Transfer-Encoding: chunked";
const BODY = "2\r\nok\r\n0\r\n\r\n";
/** The fields of a head for the client: Via is the last one. */
const head = (...fields: string[]) => ["HTTP/1.1 200 OK", ...fields, "Via: 1.1 outrider", "", ""].join("\r\n");
const PLAIN = `${head("Content-Length: 2")}ok`;
const IN_CHUNKS = `${head(CHUNKED)}${BODY}`;

/** An answer of a receiver, and what the client gets. */
const REPAIRED: Record<string, [answer: string, delivered: string]> = {
  "white space before a colon": [
    "HTTP/1.1 200 OK\r\nX-A : 1\r\nContent-Length \t: 2\r\n\r\nok",
    `${head("X-A: 1", "Content-Length: 2")}ok`,
  ],
  "white space before the colon of Transfer-Encoding": [
    `HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\n\r\n${BODY}`,
    IN_CHUNKS,
  ],
  "white space before the colon of a hop-by-hop field": [
    "HTTP/1.1 200 OK\r\nConnection : X-Hop\r\nX-Hop: 1\r\nX-Outrider-Error : egress-denied: no\r\nContent-Length: 2\r\n\r\nok",
    PLAIN,
  ],
  "LF without CR": ["HTTP/1.1 200 OK\nX-A: 1\nContent-Length: 2\n\nok", `${head("X-A: 1", "Content-Length: 2")}ok`],
  "LF without CR in the last line of the head": ["HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\nok", PLAIN],
  "a folded field": [
    "HTTP/1.1 200 OK\r\nX-A: a\r\n\t  b \r\nContent-Length: 2\r\n\r\nok",
    `${head("X-A: a b", "Content-Length: 2")}ok`,
  ],
  "a folded Content-Length": ["HTTP/1.1 200 OK\r\nContent-Length:\r\n 2\r\n \r\n\r\nok", PLAIN],
  "a folded Transfer-Encoding": [`HTTP/1.1 200 OK\nTransfer-Encoding :\n chunked\n\n${BODY}`, IN_CHUNKS],
  "a folded Proxy-Status in the proxy's name": [
    "HTTP/1.1 200 OK\r\nProxy-Status:\r\n edge,\r\n outrider; error=dns_error\r\nContent-Length: 2\r\n\r\nok",
    `${head("Proxy-Status: edge", "Content-Length: 2")}ok`,
  ],
  "two equal Content-Length fields": ["HTTP/1.1 200 OK\r\nContent-Length: 2\r\ncontent-length: 2\r\n\r\nok", PLAIN],
  "a Content-Length that is a list of equal values": ["HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok", PLAIN],
  "Content-Length beside chunked": [`HTTP/1.1 200 OK\r\nContent-Length: 4\r\n${CHUNKED}\r\n\r\n${BODY}`, IN_CHUNKS],
  "white space after a chunk size": [`HTTP/1.1 200 OK\r\n${CHUNKED}\r\n\r\n2  \r\nok\r\n0\t\r\n\r\n`, IN_CHUNKS],
  "white space before the colon of a trailer": [
    `HTTP/1.1 200 OK\r\n${CHUNKED}\r\n\r\n2\r\nok\r\n0\r\nT : 1\r\n\r\n`,
    IN_CHUNKS,
  ],
  "a folded trailer": [`HTTP/1.1 200 OK\r\n${CHUNKED}\r\n\r\n2\r\nok\r\n0\r\nT: 1\r\n x\r\n\r\n`, IN_CHUNKS],
  "a higher minor version": ["HTTP/1.2 200 OK\r\nContent-Length: 2\r\n\r\nok", PLAIN],
  "an interim response": [
    `HTTP/1.1 103 Early Hints\r\nLink : </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok`,
    PLAIN,
  ],
};

for (const [what, [answer, delivered]] of Object.entries(REPAIRED)) {
  test(`repairs ${what} and does not reuse the upstream`, async () => {
    // Each answer comes with a second one, which belongs to no request.
    for (const behind of ["", SECOND]) {
      const far = await receiver(answer + behind);
      const client = await RawClient.open(proxy.port);
      for (const nth of [1, 2]) {
        client.socket.write(`GET ${far.uri}/${nth} HTTP/1.1\r\nHost: x\r\n\r\n`);
        await client.until(() => client.text.length >= nth * delivered.length, `answer ${nth}`);
        assert.equal(client.text, delivered.repeat(nth));
      }
      client.socket.destroy();
      assert.deepEqual([far.state.connections, far.state.paths], [2, ["/1", "/2"]]);
      await far.close();
    }
  });
}

/** Valid answers with bytes behind them, the method of their request, and what the client gets. */
const FOLLOWED: Record<string, [method: string, answer: string, delivered: string]> = {
  "a Content-Length": ["GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", PLAIN],
  chunks: ["GET", `HTTP/1.1 200 OK\r\n${CHUNKED}\r\n\r\n${BODY}`, IN_CHUNKS],
  "an answer without body": ["HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", head("Content-Length: 2")],
};

for (const [what, [method, answer, delivered]] of Object.entries(FOLLOWED)) {
  test(`no request gets the bytes behind ${what}`, async () => {
    const far = await receiver(answer + SECOND);
    const client = await RawClient.open(proxy.port);
    for (const nth of [1, 2]) {
      client.socket.write(`${method} ${far.uri}/${nth} HTTP/1.1\r\nHost: x\r\n\r\n`);
      await client.until(() => client.text.length >= nth * delivered.length, `answer ${nth}`);
      assert.equal(client.text, delivered.repeat(nth));
    }
    client.socket.destroy();
    assert.deepEqual([far.state.connections, far.state.paths], [2, ["/1", "/2"]]);
    await far.close();
  });
}

test("bytes of an idle upstream close it", async () => {
  const far = await receiver("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
  const client = await RawClient.open(proxy.port);
  client.socket.write(`GET ${far.uri}/1 HTTP/1.1\r\nHost: x\r\n\r\n`);
  await client.until(() => client.text === PLAIN, "answer 1");
  const [idle] = far.sockets;
  idle!.write(SECOND);
  // Sooner than the pool closes an idle connection (4 s).
  if (!idle!.closed) await once(idle!, "close", { signal: AbortSignal.timeout(3000) });
  client.socket.write(`GET ${far.uri}/2 HTTP/1.1\r\nHost: x\r\n\r\n`);
  await client.until(() => client.text === PLAIN.repeat(2), "answer 2");
  assert.equal(far.state.connections, 2);
  client.socket.destroy();
  await far.close();
});

test("repairs an answer in the same way when each byte arrives alone", async () => {
  for (const [what, [answer, delivered]] of Object.entries(REPAIRED)) {
    const far = await listen((socket) => {
      socket.setNoDelay(true);
      socket.once("data", async () => {
        for (const byte of Buffer.from(answer, "latin1")) {
          socket.write(Buffer.of(byte));
          await new Promise((resolve) => setImmediate(resolve));
        }
      });
      socket.on("end", () => socket.end());
    });
    const client = await RawClient.open(proxy.port);
    client.socket.write(`GET http://a.example:${far.port}/ HTTP/1.1\r\nHost: x\r\n\r\n`);
    const payload = (text: string) => text.replace(/1\r\no\r\n1\r\nk\r\n/, "2\r\nok\r\n");
    await client.until(() => payload(client.text).length >= delivered.length, `answer with ${what}`);
    assert.equal(payload(client.text), delivered, what);
    client.socket.destroy();
    await far.close();
  }
});

test("a chunk size may have leading zeros, and the upstream is reused", async () => {
  const far = await receiver(`HTTP/1.1 200 OK\r\n${CHUNKED}\r\n\r\n0000000000000002\r\nok\r\n0\r\n\r\n`);
  const client = await RawClient.open(proxy.port);
  for (const nth of [1, 2]) {
    client.socket.write(`GET ${far.uri}/ HTTP/1.1\r\nHost: x\r\n\r\n`);
    await client.until(() => client.text.length >= nth * IN_CHUNKS.length, `answer ${nth}`);
    assert.equal(client.text, IN_CHUNKS.repeat(nth));
  }
  client.socket.destroy();
  assert.equal(far.state.connections, 1);
  await far.close();
});

test("a repaired HEAD or 304 answer has no body", async () => {
  const far = await receiver(`HTTP/1.1 304 Not Modified\r\nContent-Length : 4\r\nContent-Length: 4\r\n\r\n${SECOND}`);
  for (const method of ["HEAD", "GET"]) {
    const text = await exchange(proxy.port, `${method} ${far.uri}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`);
    assert.equal(
      text,
      "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\nVia: 1.1 outrider\r\nConnection: close\r\n\r\n",
    );
  }
  await far.close();
});

/** Fields of an answer that two readers could read in two ways, and the reason of the 502. */
const REFUSED: Record<string, RegExp> = {
  "X-A: a\rb\r\nContent-Length: 2": /a field value has a control character/,
  "X-A: a\r\r\nContent-Length: 2": /a field value has a control character/,
  "X-A: a\0b\r\nContent-Length: 2": /a field value has a control character/,
  "X-A: a\r\n b\0\r\nContent-Length: 2": /a field value has a control character/,
  " X-A: a\r\nContent-Length: 2": /white space before the first field/,
  " X-A : a\r\nContent-Length: 2": /white space before the first field/,
  "X A: a\r\nContent-Length: 2": /a field name is not a token/,
  "X\v: a\r\nContent-Length: 2": /a field name is not a token/,
  "X-A: a\r\n: a\r\nContent-Length: 2": /a field name is not a token/,
  "Content-Length: 2\r\nContent-Length: 3": /two Content-Length values that differ/,
  "Content-Length: 2\r\nContent-Length: 02": /two Content-Length values that differ/,
  "Content-Length: 2\r\nContent-Length : 3": /two Content-Length values that differ/,
  "Content-Length: 2, 3": /two Content-Length values that differ/,
  "Content-Length: 2,": /two Content-Length values that differ/,
  "Content-Length: 2\r\n 3": /Content-Length is not a number/,
  "Content-Length: +2": /Content-Length is not a number/,
  "Content-Length: +2\r\nContent-Length: +2": /Content-Length is not a number/,
  [`Content-Length: 2\r\nContent-Length: 3\r\n${CHUNKED}`]: /two Content-Length values that differ/,
  [`Content-Length: x\r\n${CHUNKED}`]: /Content-Length is not a number/,
  [`${CHUNKED}\r\n${CHUNKED}`]: /two Transfer-Encoding fields/,
  [`${CHUNKED}\r\nTransfer-Encoding : identity`]: /two Transfer-Encoding fields/,
  [`${CHUNKED}\r\n , identity`]: /Transfer-Encoding other than chunked/,
  "Transfer-Encoding: chunked, gzip": /Transfer-Encoding other than chunked/,
  "Transfer-Encoding: gzip, chunked": /Transfer-Encoding other than chunked/,
  "Transfer-Encoding: identity\r\nContent-Length: 2": /Transfer-Encoding other than chunked/,
  "Transfer-Encoding: xchunked": /Transfer-Encoding other than chunked/,
};

test("an answer that is not repaired is a 502 with http_protocol_error", async () => {
  for (const [fields, reason] of Object.entries(REFUSED)) {
    const far = await receiver(`HTTP/1.1 200 OK\r\n${fields}\r\n\r\n${BODY}`);
    const text = await exchange(proxy.port, `GET ${far.uri}/ HTTP/1.1\r\nHost: x\r\n\r\n`);
    const [line, ...rest] = text.split("\r\n");
    assert.match(
      line!,
      /^HTTP\/1\.1 502 egress-connect: a\.example:\d+ answered with broken HTTP: /,
      JSON.stringify(fields),
    );
    assert.match(line!, reason, JSON.stringify(fields));
    assert.ok(rest.includes("Proxy-Status: outrider; error=http_protocol_error"), text);
    const record = await proxy.waitRecord(({ target }) => target === `a.example:${far.port}`);
    assert.deepEqual([record.verdict, record.code, record.close], ["allow", "bad-answer", "refused"]);
    await far.close();
  }
});

test("other protocol errors of a receiver have the same error type", async () => {
  const answers = {
    "SSH-2.0-OpenSSH\r\n": "http_protocol_error",
    "HTTP/1.1 101 Switching Protocols\r\n\r\n": "http_protocol_error",
    "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n": "http_protocol_error",
    [`HTTP/1.1 200 OK\r\n${"X: y\r\n".repeat(257)}\r\n`]: "http_protocol_error",
    ["HTTP/1.1 103 Early Hints\r\n\r\n".repeat(17)]: "http_protocol_error",
    "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n": "http_protocol_error; received-status=407",
  };
  for (const [answer, error] of Object.entries(answers)) {
    const far = await receiver(answer);
    const text = await exchange(proxy.port, `GET ${far.uri}/ HTTP/1.1\r\nHost: x\r\n\r\n`);
    assert.match(text, /^HTTP\/1\.1 502 egress-connect: /);
    assert.ok(text.includes(`\r\nProxy-Status: outrider; error=${error}\r\n`), text);
    await far.close();
  }
});

test("malformed chunks are a reset, and LF without CR is not repaired there", async () => {
  const bodies = ["2\nok\r\n0\r\n\r\n", "2\r\nok\n0\r\n\r\n", "2\r\nok\r\n0\n\r\n", "2\r\nok\r\n0\r\n\n"];
  const trailers = ["T: 1\n", "\tT: 1\r\n", "T: \r1\r\n", "T\r\n"].map((line) => `2\r\nok\r\n0\r\n${line}\r\n`);
  const sizes = [" 2", "2 x", "2 ;\0", "0x2", "+2", "", "00000000000000002", "1000000000000"].map(
    (size) => `${size}\r\nok\r\n0\r\n\r\n`,
  );
  for (const body of [...bodies, ...trailers, ...sizes]) {
    const far = await receiver(`HTTP/1.1 200 OK\r\n${CHUNKED}\r\n\r\n${body}`);
    const client = await RawClient.open(proxy.port);
    client.socket.write(`GET ${far.uri}/ HTTP/1.1\r\nHost: x\r\n\r\n`);
    await client.until(() => client.socket.destroyed, `reset after ${JSON.stringify(body)}`);
    assert.equal(client.error?.code, "ECONNRESET", JSON.stringify(body));
    assert.doesNotMatch(client.text, /\r\n0\r\n\r\n$/);
    const record = await proxy.waitRecord(({ target }) => target === `a.example:${far.port}`);
    assert.deepEqual([record.code, record.close], ["bad-answer", "upstream-broken"]);
    await far.close();
  }
});

test("requests with the same faults are still refused", async () => {
  const far = await receiver("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
  const uri = `POST ${far.uri}/ HTTP/1.1\r\nHost: x\r\n`;
  for (const request of [
    `${uri}X-A : 1\r\n\r\n`,
    `POST ${far.uri}/ HTTP/1.1\nHost: x\n\n`,
    `${uri}X-A: 1\r\n 2\r\n\r\n`,
    `${uri}Content-Length: 2\r\nContent-Length: 2\r\n\r\nok`,
    `${uri}Content-Length: 2, 2\r\n\r\nok`,
    `${uri}Content-Length: 2\r\n${CHUNKED}\r\n\r\n${BODY}`,
    `${uri}${CHUNKED}\r\n\r\n2 \r\nok\r\n0\r\n\r\n`,
    `${uri}${CHUNKED}\r\n\r\n0000000000000002\r\nok\r\n0\r\n\r\n`,
    `${uri}${CHUNKED}\r\n\r\n2\r\nok\r\n0\r\nT : 1\r\n\r\n`,
    `${uri}${CHUNKED}\r\n\r\n2\r\nok\r\n0\r\nT: 1\r\n x\r\n\r\n`,
  ]) {
    assert.match(await exchange(proxy.port, request), /^HTTP\/1\.1 400 egress-bad-request: /, JSON.stringify(request));
  }
  await far.close();
});
