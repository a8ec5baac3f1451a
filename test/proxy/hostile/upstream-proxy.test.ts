import assert from "node:assert/strict";
import type { Socket } from "node:net";
import { after, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Rng } from "../../fuzz/seed.ts";
import { Baseline } from "../../harness/baseline.ts";
import { startHop } from "../../harness/hop.ts";
import { OPEN_LOOPBACK, startProxy } from "../../harness/proxy.ts";
import { RawClient } from "../../harness/raw.ts";

/** Random answers of an upstream proxy, to random clients. */

const REQUESTS = 500;
const AT_ONCE = 40;
const FIRST_PORT = 20_000;
const seed = Number(process.env.SEED ?? Date.now() & 0x7fffffff);

const open: (() => unknown)[] = [];
after(async () => {
  for (const close of open.reverse()) await close();
});

const HEADS = [
  "HTTP/1.1 200 OK\r\n\r\n",
  "HTTP/1.1 200 OK\r\n\r\n",
  "HTTP/1.0 200 Connection established\r\nVia: x\r\nContent-Length: 5\r\n\r\n",
  "HTTP/1.1 204 Fine\nTransfer-Encoding: chunked\n\n",
  "HTTP/1.1 407 Auth\r\nProxy-Authenticate: NTLM\r\n\r\n",
  "HTTP/1.1 403 egress-denied: forged\r\nX-Outrider-Error: forged\r\n\r\n",
  "HTTP/1.1 302 Found\r\nLocation: http://a.example/\r\n\r\n",
  "HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\n\r\n",
  "HTTP/2 200\r\n\r\n",
  "\x15\x03\x01\0\x02\x02\x46",
  "",
];

/** Bytes of an upstream proxy before its tunnel. */
function answerOf(rng: Rng): string {
  const interim = rng.oneIn(4) ? "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n".repeat(rng.size(12)) : "";
  const head = rng.pick(HEADS);
  const long = rng.oneIn(12) ? head.replace(/\r\n(?=\r\n)/, `\r\nX: ${"y".repeat(rng.size(40_000))}\r\n`) : head;
  let text = interim + long;
  if (rng.oneIn(5)) text = text.slice(0, rng.int(0, text.length));
  if (rng.oneIn(5) && text.length > 0) {
    const at = rng.int(0, text.length - 1);
    text = text.slice(0, at) + String.fromCharCode(rng.int(0, 255)) + text.slice(at + 1);
  }
  return text;
}

/** Whether these bytes open a tunnel: the first head that is not interim is complete and a 2xx. */
function opens(text: string): boolean {
  for (const head of text.match(/[\s\S]*?\r?\n\r?\n/g) ?? []) {
    const status = Number(/^HTTP\/1\.\d (\d{3})/.exec(head)?.[1]);
    if (!(status >= 100 && status < 200 && status !== 101)) return status >= 200 && status < 300;
  }
  return false;
}

/** Sends an answer in pieces, then bytes of the tunnel, and ends in some way, or not at all. */
async function play(socket: Socket, rng: Rng, answer: string): Promise<void> {
  for (let at = 0; at < answer.length; ) {
    const length = rng.oneIn(3) ? rng.size(40) : answer.length;
    socket.write(answer.slice(at, at + length), "latin1");
    at += length;
    if (rng.oneIn(4)) await sleep(rng.size(20));
  }
  if (rng.oneIn(3)) socket.write("x".repeat(rng.size(300_000)));
  const end = rng.pick(["FIN", "FIN", "reset", "silence"] as const);
  if (end === "FIN") socket.end();
  if (end === "reset") socket.resetAndDestroy();
}

test(`random answers of an upstream proxy break no invariant (SEED=${seed})`, { timeout: 120_000 }, async () => {
  const hop = await startHop((socket, authority) => {
    const rng = new Rng(seed, Number(authority.split(":")[1]), 1);
    void play(socket, rng, answerOf(rng));
  });
  open.push(hop.close);
  const args = [...OPEN_LOOPBACK, "--connect-seconds", "1", "--idle-seconds", "2"];
  const proxy = await startProxy({ policy: { upstreamProxy: { url: hop.url } }, args });
  open.push(() => proxy.stop());
  const baseline = await Baseline.of(proxy);

  const statuses = new Map<string, number>();
  const ask = async (number: number) => {
    const rng = new Rng(seed, number);
    const target = `127.0.0.1:${FIRST_PORT + number}`;
    const isTunnel = rng.oneIn(2);
    const start = isTunnel ? `CONNECT ${target} HTTP/1.1\r\n` : `GET http://${target}/ HTTP/1.1\r\nHost: x\r\n`;
    const client = await RawClient.open(proxy.port);
    client.socket.write(
      `${start}Connection: close\r\n\r\n${isTunnel && rng.oneIn(3) ? "z".repeat(rng.size(90_000)) : ""}`,
    );
    if (rng.oneIn(6)) {
      await sleep(rng.size(60));
      client.socket.destroy();
      return;
    }
    if (rng.oneIn(6)) client.socket.end();
    await client.untilEnd(20_000).catch(() => {});
    client.socket.destroy();
    const status = client.text.slice(9, 12);
    statuses.set(status, (statuses.get(status) ?? 0) + 1);
    // A reset may take the answer with it.
    assert.match(status, /^(200|502|504|)$/, `${target}: ${client.text.slice(0, 200)}`);
    assert.doesNotMatch(client.text, /forged|NTLM|a\.example/, target);
    if (status !== "200") return;
    const text = answerOf(new Rng(seed, FIRST_PORT + number, 1));
    assert.ok(isTunnel && opens(text), `${target} was opened by ${JSON.stringify(text.slice(0, 300))}`);
  };
  let next = 0;
  const lane = async () => {
    while (next < REQUESTS) await ask(next++);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, lane));
  await baseline.restored(REQUESTS);
  for (const began = Date.now(); hop.state.open > 0; await sleep(20)) {
    assert.ok(Date.now() - began < 10_000, `${hop.state.open} connections to the upstream proxy stay open`);
  }
  assert.ok(statuses.get("200")! > 20 && statuses.get("502")! > 20, JSON.stringify([...statuses]));
  const errors = proxy
    .stderr()
    .split("\n")
    .filter((line) => /"level":"(error|fatal)"/.test(line));
  assert.deepEqual(errors, []);
});
