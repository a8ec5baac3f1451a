import assert from "node:assert/strict";
import { test } from "node:test";
import { progressLine, startProgress } from "../bench/progress.ts";

/** The line that a benchmark shows on a terminal. */

const parts = [
  { name: "tunnel", seconds: 30 },
  { name: "tls", seconds: 30 },
  { name: "idle", seconds: 60 },
];

/** A stream that keeps its text. */
function stream(isTTY: boolean, columns = 80) {
  const texts: string[] = [];
  const write = (text: string) => texts.push(text) > 0;
  return { texts, stream: { isTTY, columns, write } as unknown as NodeJS.WriteStream };
}

test("progress shows the part, the share that is done, and the remaining time", () => {
  assert.equal(progressLine(parts, 0, 0, 0), "tunnel (1 of 3), 0 % done");
  assert.equal(progressLine(parts, 0, 0.5, 10), "tunnel (1 of 3), 13 % done, about 70 s left");
  assert.equal(progressLine(parts, 2, 0, 300), "idle (3 of 3), 50 % done, about 5 min left");
});

test("progress replaces its line on a terminal, and writes nothing elsewhere", () => {
  const terminal = stream(true);
  const shown = startProgress(parts, terminal.stream);
  shown.show("tls");
  shown.clear();
  assert.match(terminal.texts.join(""), /^\r\x1b\[Ktls \(2 of 3\), 25 % done, about 1 s left\r\x1b\[K$/);
  const widthless = stream(true, 0);
  startProgress(parts, widthless.stream).show("tls");
  assert.match(widthless.texts.join(""), / left$/);
  const file = stream(false);
  const silent = startProgress(parts, file.stream);
  silent.show("tls", 0.5);
  silent.clear();
  assert.deepEqual(file.texts, []);
});
