import assert from "node:assert/strict";
import { connect, type Socket } from "node:net";
import { after, before, test } from "node:test";
import { OPEN_LOOPBACK, type ProxyHandle, startProxy } from "../harness/proxy.ts";
import { listen } from "../harness/raw.ts";

const TUNNELS = 200_000;
const AT_ONCE = 64;
const IDLE = 5000;
const ANSWER_BYTES = "HTTP/1.1 200 Connection established\r\n\r\nbye".length;

let proxy: ProxyHandle;
before(async () => {
  proxy = await startProxy({ args: [...OPEN_LOOPBACK, "--access-log", "none", "--idle-seconds", "4"] });
});
after(async () => {
  assert.equal(await proxy.stop(), 0);
  assert.doesNotMatch(proxy.stderr(), /"level":"(error|fatal)"|Error:/);
});

/** One tunnel from CONNECT to its end; returns its input. */
function tunnel(port: number): Promise<number> {
  return new Promise((resolve, reject) => {
    let received = 0;
    const socket = connect(proxy.port, "127.0.0.1");
    socket.on("data", (chunk) => {
      received += chunk.length;
    });
    socket.on("error", reject);
    socket.on("close", () => resolve(received));
    socket.write(`CONNECT 127.0.0.1:${port} HTTP/1.1\r\n\r\nhello`);
  });
}

test(`${TUNNELS} short tunnels leak neither handles nor memory`, { timeout: 600_000 }, async () => {
  const far = await listen((socket) => socket.on("data", () => socket.end("bye")));
  const round = async (count: number): Promise<void> => {
    let left = count;
    const lane = async () => {
      while (left-- > 0) assert.equal(await tunnel(far.port), ANSWER_BYTES);
    };
    await Promise.all(Array.from({ length: AT_ONCE }, lane));
    await proxy.untilStatus((status) => status.connections === 0);
  };
  const rounds = 8;
  const memory: number[] = [];
  const open: number[] = [];
  for (let i = 0; i < rounds; i++) {
    await round(TUNNELS / rounds);
    memory.push(proxy.rss());
    open.push(proxy.handles());
  }
  console.log(`memory after each ${TUNNELS / rounds} tunnels: ${memory.map(Math.round).join(" ")} MiB`);
  assert.ok(open.at(-1)! <= open[0]! + 5, `handles: ${open}`);
  // From the second round on: the first ones fill the heap's spaces. A leak of 300 bytes a tunnel would be 50 MiB.
  const slope = (memory.at(-1)! - memory[1]!) / (rounds - 2);
  assert.ok(slope < 4, `memory grows by ${slope} MiB every ${TUNNELS / rounds} tunnels: ${memory}`);
  await far.close();
});

test(`${IDLE} idle tunnels end and leak nothing`, {
  timeout: 240_000,
}, async (t) => {
  const far = await listen((socket) => socket.resume());
  t.after(far.close);
  const before = proxy.handles();
  const memory: number[] = [];
  for (let round = 0; round < 4; round++) {
    let established = 0;
    const clients: Socket[] = [];
    for (let i = 0; i < IDLE; i += 250) {
      const batch = Array.from({ length: 250 }, () => connect(proxy.port, "127.0.0.1"));
      for (const socket of batch) {
        socket.on("error", () => {});
        socket.on("data", () => established++);
        socket.write(`CONNECT 127.0.0.1:${far.port} HTTP/1.1\r\n\r\n`);
      }
      clients.push(...batch);
      // The receiver's queue is shorter than all of them.
      while (established < clients.length) await new Promise((resolve) => setTimeout(resolve, 5));
    }
    await proxy.untilStatus((status) => status.connections === 0, 60_000);
    while (clients.some((socket) => !socket.destroyed)) await new Promise((resolve) => setTimeout(resolve, 5));
    memory.push(proxy.rss());
  }
  console.log(`memory after each ${IDLE} idle tunnels: ${memory.map(Math.round).join(" ")} MiB`);
  assert.ok(proxy.handles() <= before + 5, `handles grew from ${before} to ${proxy.handles()}`);
  // An idle tunnel takes 6 KiB, all of them 30 MiB. The heap grows by 20 MiB more at some time: the median step counts.
  const steps = memory.slice(1).map((after, i) => after - memory[i]!);
  const median = steps.sort((a, b) => a - b)[1]!;
  assert.ok(median < 10, `memory grows by ${median} MiB every ${IDLE} idle tunnels: ${memory}`);
});
