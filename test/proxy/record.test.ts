import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { closeSync, constants, createReadStream, openSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
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
