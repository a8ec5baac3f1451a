import assert from "node:assert/strict";
import { test } from "node:test";
import { type BodyReader, ChunkedBody, chunkHeader, LengthBody, UntilClose } from "../../proxy/http/body.ts";
import { boundCounts } from "../../proxy/outcome/bounds.ts";

const bytes = (text: string): Buffer => Buffer.from(text, "latin1");

/** The bytes in one read, in two reads with each split, and in reads of one octet. */
function* splits(whole: Buffer): Generator<Buffer[]> {
  yield [whole];
  for (let at = 1; at < whole.length; at++) yield [whole.subarray(0, at), whole.subarray(at)];
  yield [...whole].map((_, i) => whole.subarray(i, i + 1));
}

/** Feeds reads until the body ends. Returns its payload and the bytes after it, or "..." if it does not end. @throws BodyError */
function read(body: BodyReader, pieces: readonly Buffer[]): string {
  let payload = "";
  for (const [i, piece] of pieces.entries()) {
    const rest = body.feed(piece, (data) => {
      // An empty chunk would end the chunked body that the proxy writes.
      assert.ok(data.length > 0, "an empty payload");
      payload += data.toString("latin1");
    });
    assert.equal(rest !== null, body.done, "a body is done when it returns the bytes after it");
    if (rest === null) continue;
    return `${payload}|${Buffer.concat([rest, ...pieces.slice(i + 1)]).toString("latin1")}`;
  }
  return `${payload}...`;
}

/** The same for a chunked body: " repaired" after the bytes if it was; "error" if its framing is invalid. */
function readChunks(of: "request" | "answer", pieces: readonly Buffer[]): string {
  const body = new ChunkedBody(of);
  try {
    return `${read(body, pieces)}${body.repaired ? " repaired" : ""}`;
  } catch (error) {
    if ((error as { code?: string }).code !== "BAD_BODY") throw error;
    return "error";
  }
}

/** The payload of each call for one read. */
function payloadsOf(body: BodyReader, piece: Buffer): Buffer[] {
  const payloads: Buffer[] = [];
  body.feed(piece, (payload) => payloads.push(payload));
  return payloads;
}

/** A chunk of so many octets, each `fill`. */
const chunk = (length: number, fill = "x"): string => `${length.toString(16)}\r\n${fill.repeat(length)}\r\n`;
const END = "0\r\n\r\n";

test("a body of known length ends at its last octet, for every split", () => {
  for (const pieces of splits(bytes("helloGET / HTTP/1.1"))) {
    assert.equal(read(new LengthBody(5), pieces), "hello|GET / HTTP/1.1");
    assert.equal(read(new LengthBody(19), pieces), "helloGET / HTTP/1.1|");
    assert.equal(read(new LengthBody(20), pieces), "helloGET / HTTP/1.1...");
  }
});

test("an empty body is done before the first read and takes no octet", () => {
  assert.ok(new LengthBody(0).done);
  assert.ok(!new LengthBody(1).done);
  assert.equal(read(new LengthBody(0), [bytes("GET")]), "|GET");
  assert.equal(read(new LengthBody(0), [bytes("")]), "|");
  assert.equal(read(new LengthBody(2), [bytes(""), bytes("ab"), bytes("c")]), "ab|c");
});

test("a body without a length takes every octet until the connection closes", () => {
  for (const pieces of splits(bytes("a\r\n0\r\n\r\n"))) {
    assert.equal(read(new UntilClose(), pieces), "a\r\n0\r\n\r\n...");
  }
  assert.equal(read(new UntilClose(), [bytes("")]), "...");
});

test("only chunked bodies have lines and repairs", () => {
  for (const body of [new LengthBody(3), new UntilClose()]) {
    read(body, [bytes("a\r\n")]);
    assert.deepEqual([body.lines, body.repaired], [0, false]);
  }
});

test("repairs white space in chunked answers and no other fault", () => {
  const body = (size: string, trailer = "") => `${size}\r\nabc\r\n0\r\n${trailer}\r\n`;
  const faultySizes = ["3 x", "3x ", " 3", "3 \0", "3 \r", " ", "3\n"];
  const faultyTrailers = [
    ...[" T: v\r\n", "T u: v\r\n", "(T : v\r\n", "T\r\n", "T: v\r\nno field\r\n"],
    ...["T: v\r\n w\0\r\n", "T : v\0\r\n", "T: v\n", "\n"],
  ];
  const rows: [string, string][] = [
    [body("3"), "abc|"],
    [body("3 \t"), "abc| repaired"],
    ["3\r\nabc\r\n0 \r\n\r\n", "abc| repaired"],
    [body("3 ;x"), "abc|"],
    [body("0000000000000003"), "abc|"],
    [body("00000000000000003"), "error"],
    ["0ffffffffffff\r\na", "a..."],
    [body("1000000000000"), "error"],
    ...faultySizes.map((size): [string, string] => [body(size), "error"]),
    [body("3", "T: v\r\n"), "abc|"],
    [body("3", "T \t: v\r\n"), "abc| repaired"],
    [body("3", "Trailer : v\r\n"), "abc| repaired"],
    [body("3", "T: v\r\n w\r\n\t\r\n"), "abc| repaired"],
    ...faultyTrailers.map((trailer): [string, string] => [body("3", trailer), "error"]),
  ];
  for (const [text, expected] of rows) {
    for (const pieces of splits(bytes(text)))
      assert.equal(readChunks("answer", pieces), expected, JSON.stringify(text));
    const strict = expected.endsWith(" repaired") || text.startsWith("0") ? "error" : expected;
    assert.equal(readChunks("request", [bytes(text)]), strict, JSON.stringify(text));
  }
});

test("parses chunked bodies strictly, the same for every split", () => {
  const faultySizes = ["0x3", "+3", "-3", " 3", "3 ", "g", "", "1000000000000", "3\0", "3;x\0", "3x;y", "3;x\ry"];
  const rows: [string, string][] = [
    ["3\r\nabc\r\n0\r\n\r\nrest", "abc|rest"],
    ["3;ext=1\r\nabc\r\nA \t;x\r\n0123456789\r\n0\r\nT: v\r\n\r\n", "abc0123456789|"],
    ["000003\r\nabc\r\n0\r\n\r\n", "abc|"],
    ['3;\r\nabc\r\n000;x="\xe9"\r\nTrailer:\r\n\r\n\r\n', "abc|\r\n"],
    ["3\r\nab", "ab..."],
    ...faultySizes.map((size): [string, string] => [`${size}\r\nabc\r\n0\r\n\r\n`, "error"]),
    // Without digits: other readers may take it for the last chunk.
    ["\r\n\r\n", "error"],
    [";x\r\n\r\n", "error"],
    ["3\nabc\r\n0\r\n\r\n", "error"],
    ["3;\nabc\r\n0\r\n\r\n", "error"],
    ["3\r\nabcd\r\n0\r\n\r\n", "error"],
    ["3\r\nabc0\r\n\r\n", "error"],
    ["3\r\nabc\n0\r\n\r\n", "error"],
    // The data ends with half a line end.
    ["1\r\n\n\rX0\r\n\r\n", "error"],
    ["1\r\n\r\n0\r\n\r\n", "error"],
    ["0\r\nno field\r\n\r\n", "error"],
    ["0\r\nT: v\0\r\n\r\n", "error"],
    ["0\r\nT: v\r\n\n", "error"],
  ];
  for (const [text, expected] of rows) {
    for (const pieces of splits(bytes(text)))
      assert.equal(readChunks("request", pieces), expected, JSON.stringify(text));
  }
});

test("a chunk size has hexadecimal digits only", () => {
  for (let octet = 0; octet < 256; octet++) {
    const digit = String.fromCharCode(octet);
    const size = /[0-9a-f]/i.test(digit) ? Number.parseInt(digit, 16) : null;
    for (const extension of ["", ";e"]) {
      const text = size === 0 ? `0${extension}\r\n\r\n` : `${digit}${extension}\r\n${"x".repeat(size ?? 0)}\r\n${END}`;
      const expected = size === null ? "error" : `${"x".repeat(size)}|`;
      assert.equal(readChunks("request", [bytes(text)]), expected, JSON.stringify(text));
    }
  }
});

test("a chunk has as many octets as its size says", () => {
  for (const size of ["10", "1F", "0a0", "fF", "1000"]) {
    const payload = "x".repeat(Number.parseInt(size, 16));
    for (const extension of ["", ";e"]) {
      const text = `${size}${extension}\r\n${payload}\r\n${END}`;
      assert.equal(readChunks("request", [bytes(text)]), `${payload}|`, size);
    }
  }
});

test("a chunked body is incomplete until its last line has ended", () => {
  const whole = bytes("3\r\nabc\r\n0\r\nT: v\r\n\r\n");
  for (let end = 1; end < whole.length; end++) {
    const text = readChunks("request", [whole.subarray(0, end)]);
    assert.equal(text, `${"abc".slice(0, Math.max(0, end - 3))}...`);
  }
  assert.equal(readChunks("request", [whole]), "abc|");
});

test("the bytes after a chunked body are left for the next message", () => {
  const next = "0\r\n\r\nGET / HTTP/1.1\r\n";
  for (const pieces of splits(bytes(`1\r\na\r\n${END}${next}`)))
    assert.equal(readChunks("request", pieces), `a|${next}`);
});

test("counts the lines of a chunked body, the same for every split", () => {
  for (const pieces of splits(bytes("3\r\nabc\r\n1;x\r\nd\r\n0\r\nT: v\r\n\r\n"))) {
    const body = new ChunkedBody("request");
    read(body, pieces);
    assert.equal(body.lines, 7);
  }
});

/** Whether the bytes stay within the limits of a chunked body, read at once and in two halves, and counted if not. */
function withinBounds(text: string): boolean {
  const whole = bytes(text);
  const half = whole.length >> 1;
  const results = [[whole], [whole.subarray(0, half), whole.subarray(half)]].map((pieces) => {
    const before = boundCounts()["body-lines"];
    const isError = readChunks("request", pieces) === "error";
    assert.equal(boundCounts()["body-lines"] - before, isError ? 1 : 0);
    return !isError;
  });
  assert.equal(results[0], results[1]);
  return results[0]!;
}

test("a chunk-size line has at most 256 octets, with its line end", () => {
  const line = (length: number) => `1;${"x".repeat(length - 4)}`;
  assert.ok(withinBounds(`${line(256)}\r\na\r\n${END}`));
  assert.ok(!withinBounds(`${line(257)}\r\na\r\n${END}`));
  // The rest of a line that is too long is not awaited.
  assert.ok(withinBounds(`1;${"x".repeat(254)}`));
  assert.ok(!withinBounds(`1;${"x".repeat(255)}`));
});

test("trailers have at most 16,384 octets together, with their line ends", () => {
  const field = (length: number) => `T:${"x".repeat(length - 4)}\r\n`;
  assert.ok(withinBounds(`0\r\n${field(16_384)}\r\n`));
  assert.ok(!withinBounds(`0\r\n${field(16_385)}\r\n`));
  assert.ok(withinBounds(`0\r\n${field(384)}${field(8_000)}${field(8_000)}\r\n`));
  assert.ok(!withinBounds(`0\r\n${field(385)}${field(8_000)}${field(8_000)}\r\n`));
  assert.ok(!withinBounds(`0\r\nT:${"x".repeat(16_383)}`), "a line without end");
  // Their place in the read does not count.
  assert.ok(withinBounds(`${chunk(20_000)}0\r\n${field(8_000)}${field(8_000)}\r\n`));
});

test("there are at most 256 trailers", () => {
  assert.ok(withinBounds(`0\r\n${"T: v\r\n".repeat(256)}\r\n`));
  assert.ok(!withinBounds(`0\r\n${"T: v\r\n".repeat(257)}\r\n`));
});

test("a chunk that is longer than its size is a fault, not a bound", () => {
  const before = boundCounts()["body-lines"];
  // The last one has no line end to wait for.
  for (const text of ["3\r\nabcd\r\n0\r\n\r\n", "3\r\nabcdef\r\n", "3\r\nabcdef"]) {
    for (const pieces of splits(bytes(text))) {
      assert.throws(() => read(new ChunkedBody("request"), pieces), /^Error: a chunk is longer than its size says$/);
    }
  }
  assert.equal(boundCounts()["body-lines"], before);
});

test("small chunks of one read become one payload, large ones stay alone", () => {
  const text = `${chunk(1, "a")}${chunk(3, "b")}${chunk(17, "c")}${chunk(2047, "d")}${chunk(2048, "e")}${chunk(16, "f")}${END}`;
  const payloads = payloadsOf(new ChunkedBody("request"), bytes(text)).map(String);
  const small = `abbb${"c".repeat(17)}${"d".repeat(2047)}`;
  assert.deepEqual(payloads, [small, "e".repeat(2048), "f".repeat(16)]);
});

test("a payload that stays alone is not copied", () => {
  for (const text of [chunk(5), chunk(2048), `${chunk(5)}${chunk(2048)}${chunk(2048)}${chunk(5)}`]) {
    // Memory of its own, which other buffers do not share.
    const piece = Buffer.alloc(text.length, text);
    for (const payload of payloadsOf(new ChunkedBody("request"), piece)) assert.equal(payload.buffer, piece.buffer);
  }
});

test("a payload of several chunks takes no more memory than the read", () => {
  // So large that Node.js gives it memory of its own.
  const piece = bytes(`${chunk(200_000)}${chunk(1000).repeat(100)}`);
  const [, together] = payloadsOf(new ChunkedBody("request"), piece);
  assert.equal(together!.length, 100_000);
  assert.ok(together!.buffer.byteLength <= piece.length);
});

test("the payload is the same for chunks and reads of every size", () => {
  const sizes = [1, 2, 15, 16, 17, 18, 300, 2047, 2048, 2049];
  // Neighbours differ, so that no octet can take the place of another one.
  const payload = bytes(sizes.map((size) => "0123456789abcdefghijklmnopqrstuvwxy".repeat(60).slice(0, size)).join(""));
  for (const chunkSize of sizes) {
    let text = "";
    for (let at = 0; at < payload.length; at += chunkSize) {
      const part = payload.subarray(at, at + chunkSize);
      text += `${chunkHeader(part)}${part.toString("latin1")}\r\n`;
    }
    const whole = bytes(`${text}${END}`);
    for (const step of [whole.length, 4096, 1000, 17, 5]) {
      const pieces: Buffer[] = [];
      for (let at = 0; at < whole.length; at += step) pieces.push(whole.subarray(at, at + step));
      assert.equal(readChunks("request", pieces), `${payload.toString("latin1")}|`, `${chunkSize} in steps of ${step}`);
    }
  }
});
