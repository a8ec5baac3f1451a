import assert from "node:assert/strict";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { after, before, test } from "node:test";
import { Baseline } from "../../harness/baseline.ts";
import { OPEN_LOOPBACK, type ProxyHandle, startProxy } from "../../harness/proxy.ts";
import { exchange, listen } from "../../harness/raw.ts";

const MIB = 1024 * 1024;
const CLIENTS = 4000;
/** A container of 512 MiB, the default of `spec.proxy.resources`. */
const MEMORY_MIB = 512;
const BUFFER_MIB = MEMORY_MIB / 4;
/** Limit of one exchange beside the others. They share the processor with it. */
const EXCHANGE_MS = 40_000;

let proxy: ProxyHandle;
let endless: Awaited<ReturnType<typeof listen>>;
let far: Awaited<ReturnType<typeof listen>>;
before(async () => {
  // Small kernel buffers in this network namespace: thousands of full ones of default size take all TCP memory of a
  // machine.
  writeFileSync("/proc/sys/net/ipv4/tcp_wmem", "4096 16384 65536");
  writeFileSync("/proc/sys/net/ipv4/tcp_rmem", "4096 131072 131072");
  proxy = await startProxy({ policy: {}, args: [...OPEN_LOOPBACK, "--buffer-mib", String(BUFFER_MIB)] });
  const page = Buffer.alloc(MIB);
  endless = await listen((socket) => {
    socket.resume();
    socket.once("data", () => {
      const pour = () => {
        while (socket.writable && socket.write(page));
      };
      socket.on("drain", pour);
      socket.write("HTTP/1.1 200 OK\r\n\r\n");
      pour();
    });
  });
  far = await listen((socket) => socket.end("hello"));
});
after(async () => {
  await proxy.stop();
  await endless.close();
  await far.close();
});

/** Clients that send a request and never read. */
async function deaf(request: string): Promise<Socket[]> {
  const sockets: Socket[] = [];
  for (let i = 0; i < CLIENTS; i += 100) {
    const some = Array.from({ length: 100 }, () => {
      const socket = connect({
        port: proxy.port,
        host: "127.0.0.1",
        onread: { buffer: Buffer.alloc(1), callback: () => false },
      });
      socket.on("error", () => {});
      socket.write(request);
      return socket;
    });
    await Promise.all(some.map((socket) => once(socket, "connect")));
    sockets.push(...some);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return sockets;
}

const kinds = {
  tunnel: () => `CONNECT 127.0.0.1:${endless.port} HTTP/1.1\r\n\r\nhello`,
  "plain http": () => `GET http://127.0.0.1:${endless.port}/ HTTP/1.1\r\nHost: x\r\n\r\n`,
};

for (const [kind, request] of Object.entries(kinds)) {
  test(`${CLIENTS} clients that never read (${kind}) leave enough memory`, async () => {
    const base = await Baseline.of(proxy);
    const clients = await deaf(request());
    let highest = 0;
    for (let i = 0; i < 40; i++) {
      const answer = await exchange(proxy.port, `CONNECT 127.0.0.1:${far.port} HTTP/1.1\r\n\r\n`, EXCHANGE_MS);
      assert.match(answer, /^HTTP\/1\.1 200 .*hello$/s);
      highest = Math.max(highest, proxy.rss());
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    const { bufferedBytes } = await proxy.untilStatus(() => true);
    console.log(`# highest RSS ${Math.round(highest)} MiB, buffered ${Math.round(bufferedBytes / MIB)} MiB`);
    assert.ok(bufferedBytes <= BUFFER_MIB * MIB + 4 * MIB, `${bufferedBytes} bytes are buffered`);
    assert.ok(highest < MEMORY_MIB, `the proxy took ${Math.round(highest)} MiB`);
    for (const socket of clients) socket.destroy();
    await base.restored(CLIENTS + 40, 30_000);
  });
}
