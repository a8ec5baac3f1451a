import assert from "node:assert/strict";
import { test } from "node:test";
import { makeDocument } from "../../proxy/policy/document.ts";
import { compile, decideKnown } from "../../proxy/policy/engine.ts";
import { parseAuthority } from "../../proxy/policy/target.ts";

const set = compile(makeDocument({}), {});
const target = parseAuthority("a.example:443")!;

for (const [address, words] of [
  ["10.0.0.5", "a private address"],
  ["0.0.0.0", "an unspecified address"],
  ["::8.8.8.8", "an IPv4-compatible address"],
  ["192.0.0.8", "an IETF protocol assignments address"],
  ["fd00::1", "a unique local address"],
] as const) {
  test(`the reason has the right article: ${words}`, () => {
    assert.match(decideKnown(set, target, [address]).reason, new RegExp(` ${words} \\(`));
  });
}
