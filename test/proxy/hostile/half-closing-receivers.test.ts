import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { after, test } from "node:test";
import { Baseline } from "../../harness/baseline.ts";
import { manifest, OPEN_LOOPBACK, type ProxyHandle, startProxy } from "../../harness/proxy.ts";
import { exchange, listen, RawClient } from "../../harness/raw.ts";

const MiB = 1024 * 1024;
const DELIVERIES = 50;
const script = new URL("../../harness/deaf-receiver.py", import.meta.url).pathname;
const skip = spawnSync("python3", ["--version"]).status === 0 ? false : "needs python3";

const started: ProxyHandle[] = [];
after(async () => {
  for (const proxy of started) await proxy.stop();
});

async function start(args: string[] = []): Promise<ProxyHandle> {
  const proxy = await startProxy({ policy: {}, args: [...OPEN_LOOPBACK, ...args] });
  started.push(proxy);
  return proxy;
}

/** A receiver with a small receive buffer that half-closes, and then resets if requested. Node cannot set SO_RCVBUF. */
async function deafReceiver(...args: "reset"[]) {
  const child = spawn("python3", [script, ...args], { stdio: ["pipe", "pipe", "inherit"] });
  const [line] = (await once(child.stdout, "data")) as [Buffer];
  return { port: Number(String(line)), close: () => child.stdin.end() };
}

/** Opens a tunnel and uploads. The client does not close. */
async function upload(port: number, target: number, bytes: number): Promise<RawClient> {
  const client = await RawClient.open(port);
  await client.connect(`127.0.0.1:${target}`);
  client.socket.write(Buffer.alloc(bytes));
  return client;
}

for (const bytes of [80_000, 400_000, 8 * MiB]) {
  const name = `a receiver that sends FIN and RST during an upload of ${bytes} bytes leaks nothing`;
  test(name, { skip }, async () => {
    const proxy = await start(["--max-tunnels", String(DELIVERIES)]);
    const receiver = await deafReceiver("reset");
    const far = await listen((socket) => socket.end("hello"));
    const base = await Baseline.of(proxy);
    const uploads = Array.from({ length: DELIVERIES }, () => upload(proxy.port, receiver.port, bytes));
    const clients = await Promise.all(uploads);
    await Promise.all(clients.map((client) => client.untilEnd()));
    for (const client of clients) client.socket.destroy();
    await base.restored(DELIVERIES);
    assert.match(await exchange(proxy.port, `CONNECT 127.0.0.1:${far.port} HTTP/1.1\r\n\r\n`), /^HTTP\/1\.1 200 /);
    assert.equal(await proxy.stop(), 0);
    assert.doesNotMatch(proxy.stderr(), /EINVAL|"level":"(error|fatal)"/);
    receiver.close();
    await far.close();
  });
}

/** Tunnels that hold all buffers of the bulk mode (`bulk.ts`), which would stop reading before the client's FIN. */
const BULK_TUNNELS = 64;

/** A tunnel whose client has ended while its last bytes are still in the proxy. The others: `close`. */
async function outlived(proxy: ProxyHandle, target: number) {
  const far = await listen((socket) => socket.resume());
  const uploads = Array.from({ length: BULK_TUNNELS }, () => upload(proxy.port, far.port, 400_000));
  const others = await Promise.all(uploads);
  const client = await RawClient.open(proxy.port);
  await client.connect(`127.0.0.1:${target}`);
  for (let sent = 0; (await proxy.untilStatus(() => true)).bufferedBytes === 0; sent++) {
    assert.ok(sent < 1000, "the kernel takes everything");
    await new Promise((resolve) => client.socket.write(Buffer.alloc(8192), resolve));
  }
  client.socket.end();
  await client.untilEnd();
  await client.until(() => client.socket.destroyed, "close of the client's connection");
  for (const other of others) other.socket.resetAndDestroy();
  await far.close();
  await proxy.untilStatus((status) => status.active === 1);
}

test("a revocation ends an upstream connection that outlives its client", { skip }, async () => {
  const proxy = await start();
  const receiver = await deafReceiver();
  const base = await Baseline.of(proxy);
  await outlived(proxy, receiver.port);
  writeFileSync(proxy.policyFile, manifest({ defaultAction: "Deny" }));
  await base.restored(1 + BULK_TUNNELS, 4000);
  const record = await proxy.waitRecord((found) => found.close === "revoked");
  assert.equal(record.code, "not-allowed");
  receiver.close();
});

test("resets an upstream that takes no bytes after both sides ended", { skip }, async () => {
  const proxy = await start();
  const receiver = await deafReceiver();
  const base = await Baseline.of(proxy);
  await outlived(proxy, receiver.port);
  await base.restored(1 + BULK_TUNNELS);
  await proxy.waitRecord((found) => found.close === "upstream-timeout");
  receiver.close();
});
