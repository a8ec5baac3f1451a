import assert from "node:assert/strict";
import { createHook } from "node:async_hooks";
import { execFileSync } from "node:child_process";
import { closeSync, constants, createReadStream, openSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { setImmediate as nextTurn } from "node:timers/promises";
import { RecordWriter } from "../../proxy/outcome/access-record.ts";
import { tempFolder } from "../harness/proxy.ts";

const LINES = 30_000;
const LINE_BYTES = 1000;

test("drops and counts records beyond a limit", async () => {
  const pipe = join(tempFolder(), "pipe");
  execFileSync("mkfifo", [pipe]);
  // Read and write: opening it does not wait for a reader.
  const fd = openSync(pipe, constants.O_RDWR);
  const writer = new RecordWriter(fd);
  for (let i = 0; i < LINES; i++) writer.write(`${String(i).padEnd(LINE_BYTES - 1)}\n`);
  const { dropped } = writer;
  assert.ok(dropped > LINES / 2, `${dropped} of ${LINES} lines of ${LINE_BYTES} bytes dropped`);
  const kept = LINES - dropped;
  let text = "";
  const reader = createReadStream(pipe, { encoding: "latin1" });
  for await (const chunk of reader) {
    text += chunk;
    if (text.length >= kept * LINE_BYTES) break;
  }
  const numbers = text.trim().split("\n").map(Number);
  assert.deepEqual(
    numbers,
    Array.from({ length: kept }, (_, i) => i),
  );
  writer.write("the next one\n");
  await writer.close();
  assert.equal(writer.dropped, dropped);
  closeSync(fd);
});

test("writes records in batches of 64 KiB or 100 ms, also while more of them come", async () => {
  const fd = openSync("/dev/null", "w");
  let writes = 0;
  const hook = createHook({
    init: (_, type) => {
      if (type === "FSREQCALLBACK") writes++;
    },
  }).enable();
  const writer = new RecordWriter(fd);
  const line = `${"x".repeat(LINE_BYTES - 1)}\n`;
  const began = performance.now();
  // A line in each turn of the event loop, in which the write before may end.
  for (let i = 0; i < 3000; i++) {
    writer.write(line);
    await nextTurn();
  }
  const elapsed = performance.now() - began;
  hook.disable();
  await writer.close();
  closeSync(fd);
  const batches = (3000 * LINE_BYTES) / 65_536 + elapsed / 100;
  assert.ok(writes > 0 && writes <= batches + 1, `${writes} writes, ${batches} batches`);
});
