import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { OPEN_LOOPBACK, type ProxyHandle, startProxy } from "../harness/proxy.ts";
import { exchange, listen } from "../harness/raw.ts";

const PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
/** Fields that clients of Smokescreen send, with an end-to-end field between them. */
const FIELDS =
  `X-Smokescreen-Role: billing\r\nx-smokescreen-trace-id: id "1"\r\nX-SMOKESCREEN-Other: 1\r\nX-Smoke: kept\r\n` +
  `Traceparent: ${PARENT}\r\n`;

let proxy: ProxyHandle;
before(async () => {
  proxy = await startProxy({ policy: {}, args: OPEN_LOOPBACK });
});
after(async () => {
  assert.equal(await proxy.stop(), 0);
});

test("fields for Smokescreen do not reach a receiver, traceparent does", async () => {
  let seen = "";
  const far = await listen((socket) => {
    socket.once("data", (chunk) => {
      seen = chunk.toString("latin1");
      socket.end("HTTP/1.1 200 OK\r\nX-Smokescreen-Error: forged\r\nContent-Length: 2\r\n\r\nok");
    });
  });
  const target = `127.0.0.1:${far.port}`;
  const wire = `GET http://${target}/ HTTP/1.1\r\nHost: x\r\n${FIELDS}Connection: close\r\n\r\n`;
  const answer = await exchange(proxy.port, wire);
  assert.match(answer, /^HTTP\/1\.1 200 OK\r\n/);
  assert.doesNotMatch(answer, /forged/);
  assert.equal(
    seen,
    `GET / HTTP/1.1\r\nHost: ${target}\r\nX-Smoke: kept\r\nTraceparent: ${PARENT}\r\nVia: 1.1 outrider\r\n\r\n`,
  );
  const record = await proxy.waitRecord((one) => one.target === target);
  assert.deepEqual([record.traceId, record.traceparent], ['id "1"', PARENT]);
  await far.close();
});

test("the record of a CONNECT has its trace ids, also if it is refused", async () => {
  assert.match(await exchange(proxy.port, `CONNECT 10.0.0.5:443 HTTP/1.1\r\n${FIELDS}\r\n`), /^HTTP\/1\.1 403 /);
  const record = await proxy.waitRecord(({ target }) => target === "10.0.0.5:443");
  assert.deepEqual([record.code, record.traceId, record.traceparent], ["address", 'id "1"', PARENT]);
});
