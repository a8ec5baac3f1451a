import assert from "node:assert/strict";
import { test } from "node:test";
import { acceptOfKey, FrameReader, frameOf, OPCODE } from "../../../operator/kube/websocket.ts";

/** A frame as a server sends it. */
function served(opcode: number, payload: Buffer, isLast = true): Buffer {
  const { length } = payload;
  const first = (isLast ? 0x80 : 0) | opcode;
  if (length < 126) return Buffer.concat([Buffer.of(first, length), payload]);
  const head = Buffer.alloc(4);
  head.writeUInt16BE((first << 8) | 126, 0);
  head.writeUInt16BE(length, 2);
  return Buffer.concat([head, payload]);
}

test("the accept value is that of RFC 6455", () => {
  assert.equal(acceptOfKey("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
});

for (const size of [0, 1, 125, 126, 65_535, 65_536]) {
  test(`a masked frame of ${size} bytes has its length and payload`, () => {
    const payload = Buffer.alloc(size, "x");
    const frame = frameOf(OPCODE.binary, payload);
    const extended = size < 126 ? 0 : size < 65_536 ? 2 : 8;
    assert.equal(frame[0], 0x82);
    assert.equal(frame[1]! & 0x80, 0x80);
    const mask = frame.subarray(2 + extended, 6 + extended);
    const bytes = frame.subarray(6 + extended).map((byte, i) => byte ^ mask[i % 4]!);
    assert.deepEqual(Buffer.from(bytes), payload);
  });
}

test("frames are read whatever the chunks", () => {
  const bytes = Buffer.concat([
    served(OPCODE.binary, Buffer.from("first")),
    served(OPCODE.ping, Buffer.from("?")),
    served(OPCODE.binary, Buffer.alloc(300, "y")),
  ]);
  for (const size of [1, 3, 7, bytes.length]) {
    const reader = new FrameReader();
    const messages = [];
    for (let at = 0; at < bytes.length; at += size) messages.push(...reader.feed(bytes.subarray(at, at + size)));
    assert.deepEqual(
      messages.map(({ opcode, payload }) => [opcode, payload.length]),
      [
        [OPCODE.binary, 5],
        [OPCODE.ping, 1],
        [OPCODE.binary, 300],
      ],
    );
  }
});

test("fragments become one message, with a control frame between them", () => {
  const reader = new FrameReader();
  const messages = reader.feed(
    Buffer.concat([
      served(OPCODE.binary, Buffer.from("ab"), false),
      served(OPCODE.ping, Buffer.alloc(0)),
      served(OPCODE.continuation, Buffer.from("cd")),
    ]),
  );
  assert.deepEqual(
    messages.map(({ payload }) => payload.toString()),
    ["", "abcd"],
  );
});

test("a frame that is too long or breaks the protocol is an error", () => {
  const long = Buffer.from([0x82, 127, 0, 0, 0, 1, 0, 0, 0, 0]);
  assert.throws(() => new FrameReader().feed(long), /4294967296 bytes; the limit is 4194304/);
  assert.throws(() => new FrameReader().feed(Buffer.from([0x82, 0x80])), /wrong bits/);
  assert.throws(() => new FrameReader().feed(Buffer.from([0x89, 126, 0, 200])), /the limit is 125/);
  assert.throws(() => new FrameReader().feed(served(OPCODE.continuation, Buffer.from("x"))), /out of order/);
});
