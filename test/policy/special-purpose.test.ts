import assert from "node:assert/strict";
import { test } from "node:test";
import { cidr, formatAddress, parseAddress } from "../../proxy/policy/cidr.ts";
import { specialClass } from "../../proxy/policy/special.ts";
import { isSpecial, toBits } from "./reference.ts";
import { IANA_IPV4, IANA_IPV6 } from "./registries.ts";

/** Bits back to text, by way of the groups. */
function toText(family: 4 | 6, bits: bigint): string {
  if (family === 4) return [24n, 16n, 8n, 0n].map((shift) => (bits >> shift) & 255n).join(".");
  return [112n, 96n, 80n, 64n, 48n, 32n, 16n, 0n].map((shift) => ((bits >> shift) & 65535n).toString(16)).join(":");
}

for (const [network, reachable] of [...IANA_IPV4, ...IANA_IPV6]) {
  test(`${network} is ${reachable === true ? "globally reachable" : "refused"} at its edges, its neighbours as their own rows say`, () => {
    const [base, length] = network.split("/") as [string, string];
    const { family, bits } = toBits(base);
    const width = family === 4 ? 32n : 128n;
    const last = bits + (1n << (width - BigInt(length))) - 1n;
    const expectClass = (at: bigint) => {
      const text = toText(family, at);
      assert.equal(specialClass(text) !== null, isSpecial({ family, bits: at }), `${text}: ${specialClass(text)}`);
    };
    // 192.0.0.192 and 100.100.100.200 lie inside of their rows; edges are judged by the longest row.
    for (const at of [bits, last]) expectClass(at);
    if (bits > 0n) expectClass(bits - 1n);
    if (last < (1n << width) - 1n) expectClass(last + 1n);
  });
}

test("the well-known NAT64 prefix is judged by the IPv4 address in it", () => {
  assert.equal(specialClass("64:ff9b::8.8.8.8"), null);
  assert.equal(specialClass("64:ff9b::10.0.0.5"), "private");
  assert.equal(specialClass("64:ff9b::169.254.169.254"), "cloud metadata");
});

test("addresses read and print in one canonical form", () => {
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
