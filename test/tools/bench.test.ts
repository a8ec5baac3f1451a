import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { finish } from "../harness/finish.ts";
import { namespaceMissing } from "../harness/namespace.ts";
import { tempFolder } from "../harness/proxy.ts";

/** The warm-up of outrider, on a busy machine. */
const LIMIT_MS = 170_000;

/** A program called tinyproxy. `act`: what it does when a client sends something. */
const fake = (act: string) => `#!${process.execPath}
const config = require("fs").readFileSync(process.argv.at(-1), "utf8");
const server = require("net").createServer((socket) => {
  socket.on("error", () => {});
  socket.on("data", () => ${act});
});
server.listen(Number(/^Port (\\d+)/m.exec(config)[1]), "127.0.0.1");
`;

/** Runs the benchmark with this program as its only peer. */
async function benchmark(act: string, ...args: string[]) {
  const folder = tempFolder();
  writeFileSync(join(folder, "tinyproxy"), fake(act), { mode: 0o755 });
  const main = new URL("../bench/main.ts", import.meta.url).pathname;
  const command = ["--expose-gc", main, "--peers", "tinyproxy", ...args];
  const env = { ...process.env, PATH: `${folder}:${process.env.PATH}` };
  return finish(spawn(process.execPath, command, { env, stdio: ["ignore", "pipe", "pipe"] }));
}

test("the benchmark names a peer that resets, and measures the others", {
  skip: namespaceMissing() ?? false,
  timeout: LIMIT_MS,
}, async () => {
  const { status, stdout, stderr } = await benchmark("socket.resetAndDestroy()", "--only", "idle");
  assert.equal(status, 1, stderr);
  assert.match(stderr, /^idle: tinyproxy: .*ECONNRESET/m);
  assert.doesNotMatch(stderr, /^ +at /m);
  assert.match(stdout, /^ +outrider +\d/m);
});

test("the benchmark gives no ratio to a peer whose requests fail", {
  skip: namespaceMissing() ?? false,
  timeout: LIMIT_MS,
}, async () => {
  const refuse = 'socket.write("HTTP/1.1 407 Proxy Authentication Required\\r\\nContent-Length: 0\\r\\n\\r\\n")';
  const short = ["--only", "refused,pingpong-1", "--rounds", "1", "--slice-seconds", "0.1"];
  const { status, stdout, stderr } = await benchmark(refuse, ...short);
  assert.equal(status, 1, stderr);
  assert.match(stderr, /^refused: tinyproxy: 100 % of the operations fail: HTTP\/1\.1 407/m);
  assert.match(stderr, /^pingpong-1: tinyproxy: .*407/m);
  const figures = stdout.split("\n").flatMap((line) => (line.startsWith("{") ? [JSON.parse(line)] : []));
  for (const workload of ["refused", "pingpong-1"]) {
    const of = (proxy: string) => figures.find((one) => one.workload === workload && one.proxy === proxy);
    assert.ok(of("outrider").ops > 0);
    assert.equal(of("tinyproxy").ratio, undefined);
    assert.match(of("tinyproxy").broken, /407/);
  }
});
