import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Baseline } from "../../harness/baseline.ts";
import { startDns } from "../../harness/dns.ts";
import { OPEN_LOOPBACK, startProxy } from "../../harness/proxy.ts";
import { exchange, listen } from "../../harness/raw.ts";

/** Names and literals that hide an IPv4 address in an IPv4-mapped IPv6 address. */

const RECEIVER = "127.0.0.5";
const MAPPED = `::ffff:${RECEIVER}`;
let receiver: Awaited<ReturnType<typeof listen>>;
let dns: Awaited<ReturnType<typeof startDns>>;

before(async () => {
  receiver = await listen((socket) => socket.end("hello"), RECEIVER);
  dns = await startDns((_, type) => ({ addresses: type === "AAAA" ? [MAPPED] : [] }));
});
after(async () => {
  await dns.close();
  await receiver.close();
});

const start = (policy: object) =>
  startProxy({ policy, args: [...OPEN_LOOPBACK, "--resolver", dns.address], hosts: `${MAPPED} listed.example` });
const statusLine = async (port: number, target: string, plain: boolean) => {
  const head = plain ? `GET http://${target}/ HTTP/1.1\r\nHost: x\r\nConnection: close` : `CONNECT ${target} HTTP/1.1`;
  return (await exchange(port, `${head}\r\n\r\n`)).split("\r\n")[0]!;
};
const HOSTS = ["resolved.example", "listed.example", "[::ffff:127.0.0.5]", "[::ffff:7f00:5]"];

test("denies an IPv4-mapped address without an IPv4 static IP", async () => {
  const proxy = await start({
    allow: [{ hosts: ["*"], cidrs: ["::/0"] }, { cidrs: ["::/0"] }],
    staticIPs: [{ address: "2600::10" }],
  });
  const baseline = await Baseline.of(proxy);
  let requests = 0;
  for (const host of HOSTS) {
    for (const plain of [false, true]) {
      requests++;
      const line = await statusLine(proxy.port, `${host}:${receiver.port}`, plain);
      assert.match(line, /^HTTP\/1\.1 403 .* IPv4, for which there is no static IP; policy test\/test$/, host);
    }
  }
  assert.equal(receiver.sockets.size, 0);
  await baseline.restored(requests);
  await proxy.stop();
});

test("dials and records an IPv4-mapped address as IPv4", async () => {
  const proxy = await start({});
  for (const host of HOSTS) {
    assert.match(await statusLine(proxy.port, `${host}:${receiver.port}`, false), /^HTTP\/1\.1 200 /, host);
  }
  await proxy.waitRecord(() => proxy.records().length === HOSTS.length);
  for (const record of proxy.records()) {
    assert.deepEqual([record.addresses, record.address, record.local], [[RECEIVER], RECEIVER, "127.0.0.1"]);
  }
  assert.equal(proxy.records().at(-1)!.target, `${RECEIVER}:${receiver.port}`);
  await proxy.stop();
});
