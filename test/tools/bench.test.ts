import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { finish } from "../harness/finish.ts";
import { namespaceMissing } from "../harness/namespace.ts";
import { tempFolder } from "../harness/proxy.ts";

/** A program called tinyproxy that resets every connection which sends something. */
const RESETTING = `#!${process.execPath}
const config = require("fs").readFileSync(process.argv.at(-1), "utf8");
const server = require("net").createServer((socket) => {
  socket.on("error", () => {});
  socket.on("data", () => socket.resetAndDestroy());
});
server.listen(Number(/^Port (\\d+)/m.exec(config)[1]), "127.0.0.1");
`;

test("the benchmark names a peer that resets, and measures the others", {
  skip: namespaceMissing() ?? false,
}, async () => {
  const folder = tempFolder();
  writeFileSync(join(folder, "tinyproxy"), RESETTING, { mode: 0o755 });
  const main = new URL("../bench/main.ts", import.meta.url).pathname;
  const args = ["--expose-gc", main, "--only", "idle", "--peers", "tinyproxy"];
  const env = { ...process.env, PATH: `${folder}:${process.env.PATH}` };
  const { status, stdout, stderr } = await finish(
    spawn(process.execPath, args, { env, stdio: ["ignore", "pipe", "pipe"] }),
  );
  assert.equal(status, 1, stderr);
  assert.match(stderr, /^idle: tinyproxy: .*ECONNRESET/m);
  assert.doesNotMatch(stderr, /^ +at /m);
  assert.match(stdout, /^ +outrider +\d/m);
});
