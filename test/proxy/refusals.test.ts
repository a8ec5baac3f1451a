import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { type Code, refusalBytes } from "../../proxy/outcome/refusals.ts";

const DOCS = readFileSync(new URL("../../docs/proxy.md", import.meta.url), "utf8");
const SOURCE = readFileSync(new URL("../../proxy/outcome/refusals.ts", import.meta.url), "utf8");
/** Every code of the table in the source. */
const CODES = [...SOURCE.slice(0, SOURCE.indexOf("} as const")).matchAll(/^ {2}"?([a-z-]+)"?: \{/gm)].map(
  ([, code]) => code!,
);

const answer = (code: Code, receivedStatus?: number) => {
  const failure = { code, reason: "x", ...(receivedStatus === undefined ? {} : { receivedStatus }) };
  return refusalBytes(failure, { policy: "a/b", denyStatus: 403, head: false });
};
const field = (bytes: string, name: string) => new RegExp(`\\r\\n${name}: ([^\\r]*)\\r\\n`).exec(bytes)?.[1];

test("docs/proxy.md has every refusal with status, phrase, error and flag", () => {
  const rows = [...DOCS.matchAll(/^\| ([a-z-, ]+) \| (\d+)[^|]* \| `(egress-[a-z-]+:)` \| (\w+) \| ?(\w*) \|$/gm)];
  const seen: string[] = [];
  for (const [, codes, status, phrase, error, flag] of rows) {
    for (const code of codes!.split(", ")) {
      const bytes = answer(code as Code);
      assert.ok(bytes.startsWith(`HTTP/1.1 ${status} ${phrase} x`), bytes);
      assert.equal(field(bytes, "Proxy-Status"), `outrider; error=${error}`);
      assert.equal(field(bytes, "x-envoy-response-flags") ?? "", flag, code);
      seen.push(code);
    }
  }
  assert.ok(CODES.length > 15, `${CODES.length} codes`);
  assert.deepEqual(seen.toSorted(), CODES.toSorted());
});

test("Envoy fields classify what is not the fault of the customer", () => {
  const flag = (code: Code) => field(answer(code), "x-envoy-response-flags");
  assert.deepEqual([flag("reset"), flag("unreachable"), flag("refused"), flag("timeout")], ["UC", "NR", "UF", "UT"]);
  for (const code of ["overloaded", "draining", "unverified", "no-policy"] as const) assert.equal(flag(code), "UO");
  assert.equal(field(answer("bad-answer", 407), "x-envoy-response-flags"), "UC");
  for (const code of ["address", "port", "denied-rule", "not-allowed"] as const) {
    assert.match(field(answer(code), "x-envoy-response-code-details")!, /^rbac_access_denied/);
    assert.equal(flag(code), undefined);
  }
});

test("the challenge names the encoding of user name and password", () => {
  assert.equal(field(answer("auth"), "Proxy-Authenticate"), 'Basic realm="outrider", charset="UTF-8"');
  assert.equal(field(answer("port"), "Proxy-Authenticate"), undefined);
});
