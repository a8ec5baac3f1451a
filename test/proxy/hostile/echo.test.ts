import assert from "node:assert/strict";
import type { Socket } from "node:net";
import { test } from "node:test";
import { Baseline } from "../../harness/baseline.ts";
import { OPEN_LOOPBACK, runOutrider, startProxy } from "../../harness/proxy.ts";
import { listen } from "../../harness/raw.ts";

/** Echo servers that send no address, but data that keeps a reader busy. */

const RIGHT = "203.0.113.10";
const answer = `HTTP/1.1 200 OK\r\nContent-Length: ${RIGHT.length}\r\n\r\n${RIGHT}`;
const chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
const interim = (status: number, fields = "") => `HTTP/1.1 ${status} Wait\r\n${fields}\r\n`;

/** Repeats a part as fast as it is read, until the connection ends. */
function endless(socket: Socket, start: string, part: string): void {
  socket.write(start);
  const more = () => {
    while (!socket.destroyed && socket.write(part));
  };
  socket.on("drain", more);
  more();
}

function drip(socket: Socket, text: string): void {
  let at = 0;
  const timer = setInterval(() => socket.write(text[at++ % text.length]!), 20);
  socket.once("close", () => clearInterval(timer));
}

/** The answer of the server, and the expected error; null: it proves the address. */
const ROWS: [name: string, act: (socket: Socket) => void, error: RegExp | null][] = [
  ["interim responses, then the answer", (s) => s.end(interim(103, "Link: </x>\r\n") + interim(100) + answer), null],
  ["endless interim responses", (s) => endless(s, "", interim(103)), /more than 8 interim responses/],
  ["interim responses that drip", (s) => drip(s, interim(103, "X: y\r\n")), /did not answer within 1 s/],
  ["interim responses alone", (s) => s.end(interim(100)), /closed without an answer/],
  ["an upgrade", (s) => s.end(interim(101, "Upgrade: x\r\n") + answer), /answered 101/],
  [
    "a head without end",
    (s) => endless(s, "HTTP/1.1 200 OK\r\n", "X: y\r\n"),
    /broken HTTP: the (response )?head (has|is)/,
  ],
  ["a field without end", (s) => endless(s, "HTTP/1.1 200 OK\r\nX: ", "y".repeat(1000)), /more than 65536|longer than/],
  ["a body without end", (s) => endless(s, "HTTP/1.1 200 OK\r\n\r\n", "9".repeat(1000)), /more than \d+ bytes/],
  ["chunk extensions", (s) => endless(s, chunked, `1;${"x".repeat(200)}\r\n1\r\n`), /more than 65536 bytes/],
  ["a chunk extension without end", (s) => endless(s, `${chunked}1;`, "x".repeat(100)), /size line is too long/],
  ["trailers without end", (s) => endless(s, `${chunked}0\r\n`, "X: y\r\n"), /trailers/],
  ["control characters", (s) => s.end("HTTP/1.1 200 \x9b2J\r\n\r\n\x9b\u001b[2J"), /neither an address nor JSON/],
  ["the answer", (s) => s.end(answer), null],
];

test("limits bytes and time of hostile echo servers", async (t) => {
  let act = ROWS[0]![1];
  const server = await listen((socket) => socket.once("data", () => act(socket)));
  t.after(server.close);
  const verification = {
    echoURLs: [`http://127.0.0.1:${server.port}/ip`],
    intervalSeconds: 1,
    timeoutSeconds: 1,
    staleAfterSeconds: 1,
  };
  const proxy = await startProxy({ policy: { staticIPs: [{ address: RIGHT }], verification }, args: OPEN_LOOPBACK });
  const base = await Baseline.of(proxy);
  for (const [name, behaviour, error] of ROWS) {
    act = behaviour;
    await fetch(`http://127.0.0.1:${proxy.adminPort}/verify`, { method: "POST" });
    const { verification } = await proxy.untilStatus(({ verification: [one] }) =>
      error === null ? one!.verified && one!.error === null : one!.error !== null && error.test(one!.error),
    );
    assert.ok((verification[0]!.error ?? "").length < 400, name);
  }
  await base.restored(0);
  assert.equal(proxy.unprintable(), "");
  assert.equal(await proxy.stop(), 0);
});

test("outrider verify skips interim responses and escapes controls", async (t) => {
  let reply = `${interim(103)}HTTP/1.1 407 \x9b2J\u001b[2J\r\n\r\n`;
  const proxy = await listen((socket) => socket.once("data", () => socket.end(reply, "latin1")));
  t.after(proxy.close);
  const args = ["verify", "--proxy", `http://127.0.0.1:${proxy.port}`, "--echo", "http://192.0.2.1/ip"];
  const refused = await runOutrider([...args, "--timeout-seconds", "5"]);
  assert.match(refused.stdout, /no answer: the proxy answered with broken HTTP/);
  reply = `${interim(103)}HTTP/1.1 407 \x9b2J\r\n\r\n`;
  assert.match((await runOutrider(args)).stdout, /no answer: the proxy answered 407 \\u009b2J\n/);
});
