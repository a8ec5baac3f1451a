import assert from "node:assert/strict";
import { test } from "node:test";
import { LineReader } from "../../proxy/http/head.ts";
import { Held } from "../../proxy/http/held.ts";

test("returns all held bytes and does not change the pieces", () => {
  const text = "0123456789".repeat(100);
  for (const size of [1, 3, 255, 256, 257, 999, 1000]) {
    const whole = Buffer.from(text);
    const held = new Held();
    for (let at = 0; at < whole.length; at += size) held.append(whole.subarray(at, at + size));
    assert.equal(held.length, 1000);
    assert.equal(held.take().toString(), text);
    assert.equal(held.length, 0);
    assert.equal(whole.toString(), text);
    held.append(Buffer.from("again"));
    assert.equal(held.take().toString(), "again");
  }
  assert.equal(new Held().take().length, 0);
});

test("an empty piece costs no copy of the piece after it", () => {
  const held = new Held();
  held.append(Buffer.alloc(0));
  const piece = Buffer.alloc(3, "abc");
  held.append(piece);
  const taken = held.take();
  assert.equal(taken.toString(), "abc");
  assert.equal(taken.buffer, piece.buffer);
});

test("64 KiB in single bytes take no more than 64 KiB", () => {
  const held = new Held();
  for (let i = 0; i < 65_536; i++) held.append(Buffer.from([i & 255]));
  assert.equal(held.length, 65_536);
  // The pieces themselves are garbage; the held bytes are one buffer outside the heap.
  assert.ok(held.take().buffer.byteLength <= 65_536);
});

test("reads a line of single bytes in linear time", () => {
  const time = (length: number): number => {
    const reader = new LineReader(1_000_000, "test");
    const bytes = Buffer.from(`${"x".repeat(length)}\r\n`);
    const began = performance.now();
    let seen = 0;
    for (let at = 0; at < bytes.length; at++) {
      reader.feed(bytes.subarray(at, at + 1), (line) => {
        seen = line.length;
        return true;
      });
    }
    assert.equal(seen, length);
    return performance.now() - began;
  };
  time(20_000);
  const short = Math.min(...[1, 2, 3].map(() => time(20_000)));
  const long = Math.min(...[1, 2, 3].map(() => time(400_000)));
  // 20 times the length; quadratic time would be 400 times as much.
  assert.ok(long < 150 * short, `${long} ms for 400,000 bytes, ${short} ms for 20,000`);
});
