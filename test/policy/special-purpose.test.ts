import assert from "node:assert/strict";
import { test } from "node:test";
import { cidr, formatAddress, parseAddress } from "../../proxy/policy/cidr.ts";
import { makeDocument } from "../../proxy/policy/document.ts";
import { compile, decideKnown } from "../../proxy/policy/engine.ts";
import { specialClass } from "../../proxy/policy/special.ts";
import { parseAuthority } from "../../proxy/policy/target.ts";
import { range, text, V4, within } from "./evaluator.ts";
import { IANA_IPV4, IANA_IPV6 } from "./registries.ts";

test("decides each registry row by its column Globally Reachable", () => {
  // Rows inside others that the shared table omits; the well-known NAT64 prefix is vetted as the address that it
  // embeds.
  const rows = [...IANA_IPV4, ...IANA_IPV6, ["192.88.99.2/32", false] as const];
  const longest = (address: bigint) =>
    rows
      .filter(([cidr]) => within(address, cidr))
      .sort(([a], [b]) => Number(b.split("/")[1]) - Number(a.split("/")[1]))[0];
  const set = compile(makeDocument({}));
  let checked = 0;
  for (const [cidr] of rows) {
    const [first, last] = range(cidr);
    for (const address of [first - 1n, first, last, last + 1n]) {
      if (address < 0n || address === V4 - 1n || address >= V4 + (1n << 32n)) continue;
      const row = longest(address);
      const want = row === undefined || row[1] === true ? "allow" : "deny";
      const target = parseAuthority(address >= V4 ? `${text(address)}:443` : `[${text(address)}]:443`)!;
      assert.equal(decideKnown(set, target, [text(address)]).verdict, want, `${text(address)}, at ${cidr}`);
      checked++;
    }
  }
  assert.ok(checked > 200, `${checked} addresses`);
});

test("vets the well-known NAT64 prefix as the IPv4 address in it", () => {
  assert.equal(specialClass("64:ff9b::8.8.8.8"), null);
  assert.equal(specialClass("64:ff9b::10.0.0.5"), "private");
  assert.equal(specialClass("64:ff9b::169.254.169.254"), "cloud metadata");
});

test("parses and prints addresses in one canonical form", () => {
  for (const text of ["1.2.3.4", "255.255.255.255", "::1", "2001:db8::1", "fe80::", "::ffff:10.0.0.5", "::"]) {
    const address = parseAddress(text)!;
    assert.deepEqual(parseAddress(formatAddress(address)), address);
  }
  for (const text of [
    "1.2.3",
    "01.2.3.4",
    "1.2.3.256",
    "1.2.3.4.5",
    "::1%lo",
    "[::1]",
    "0x7f.0.0.1",
    "1::2::3",
    "",
    "12345::",
  ]) {
    assert.equal(parseAddress(text), null, text);
  }
  assert.throws(() => cidr("10.0.0.5/8"), /host bits set; the network is 10\.0\.0\.0\/8/);
});
