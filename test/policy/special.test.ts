import assert from "node:assert/strict";
import { test } from "node:test";
import { cidr, formatAddress, parseAddress } from "../../proxy/policy/cidr.ts";
import {
  forms,
  isLoopback,
  isLoopbackAddress,
  isSpecialNetwork,
  NEVER_OPENED,
  NOT_PUBLIC,
  neverAllowed,
  parseNat64Prefix,
  specialClass,
  specialPurpose,
  touchesSpecial,
} from "../../proxy/policy/special.ts";

const at = (text: string) => parseAddress(text)!;
const formsOf = (text: string, ...nat64: string[]) => forms(at(text), nat64.map(cidr)).map(formatAddress);

test("an address is vetted as itself and as each embedded IPv4 address", () => {
  const rows: [text: string, ...more: string[]][] = [
    ["8.8.8.8"],
    ["2600::1"],
    ["::8.8.8.8", "8.8.8.8"],
    ["::2", "0.0.0.2"],
    ["::1"],
    ["::"],
    ["::ffff:0:8.8.8.8", "8.8.8.8"],
    ["2002:808:808::1", "8.8.8.8"],
    ["2001:0:808:808::f7f7:f7f7", "8.8.8.8", "8.8.8.8"],
    ["2001:0:102:304::fefd:fcfb", "1.2.3.4", "1.2.3.4"],
    ["2600::5efe:808:808", "8.8.8.8"],
    ["2600::200:5efe:808:808", "8.8.8.8"],
    ["2600::100:5efe:808:808"],
    ["2002:102:304::5efe:808:808", "1.2.3.4", "8.8.8.8"],
    ["64:ff9b:1::808:808", "8.8.8.8"],
    ["64:ff9b:1::", "0.0.0.0"],
    ["64:ff9b:1::1", "0.0.0.1"],
  ];
  for (const [text, ...more] of rows) {
    const own = formatAddress(at(text));
    assert.deepEqual(formsOf(text), [own, ...more], text);
  }
  assert.deepEqual(
    forms({ family: 6, words: [0, 0, 0xffff, 0x01020304] })
      .slice(1)
      .map(formatAddress),
    ["1.2.3.4"],
  );
});

test("an address of a NAT64 prefix is vetted as its IPv4 address only", () => {
  assert.deepEqual(formsOf("64:ff9b::8.8.8.8"), ["8.8.8.8"]);
  assert.deepEqual(formsOf("2600:1::8.8.8.8", "2600:2::/96", "2600:1::/96"), ["8.8.8.8"]);
  assert.deepEqual(formsOf("2600:3::8.8.8.8", "2600:2::/96", "2600:1::/96"), ["2600:3::808:808"]);
  assert.ok(!("error" in parseNat64Prefix("2600::/40")));
  for (const text of ["10.0.0.0/32", "2600::/33", "x"]) assert.ok("error" in parseNat64Prefix(text), text);
});

test("an address that embeds a loopback address is none itself", () => {
  for (const text of ["127.0.0.1", "127.255.255.255", "::1", "::ffff:127.0.0.1"]) {
    assert.ok(isLoopbackAddress(at(text)), text);
  }
  for (const text of ["126.255.255.255", "128.0.0.1", "0.0.0.0", "::2", "64:ff9b::127.0.0.1"]) {
    assert.ok(!isLoopbackAddress(at(text)), text);
  }
});

test("only loopback can be opened by an option", () => {
  for (const text of ["127.0.0.1", "::1"]) assert.ok(isLoopback(neverAllowed(at(text))!), text);
  for (const text of ["169.254.169.254", "::", "ff02::1"]) assert.ok(!isLoopback(neverAllowed(at(text))!), text);
  assert.equal(neverAllowed(at("8.8.8.8")), undefined);
});

test("a globally reachable range inside a special one is not special", () => {
  assert.equal(specialPurpose(at("192.0.0.9")), undefined);
  assert.equal(specialPurpose(at("192.0.0.8"))?.name, "IETF protocol assignments");
  assert.equal(specialPurpose(at("8.8.8.8")), undefined);
  assert.throws(() => specialClass("x"), new TypeError("not an IP address: x"));
});

test("a network is special if all of its addresses are", () => {
  for (const text of ["10.0.0.0/8", "10.1.0.0/16", "127.0.0.0/8", "169.254.169.254/32", "fc00::/7", "2001:db8::/48"]) {
    assert.ok(isSpecialNetwork(cidr(text)) && touchesSpecial(cidr(text)), text);
  }
  for (const text of ["8.8.8.0/24", "2600::/16"]) {
    assert.ok(!isSpecialNetwork(cidr(text)) && !touchesSpecial(cidr(text)), text);
  }
  for (const text of ["8.0.0.0/5", "0.0.0.0/0", "192.0.0.0/24", "192.0.0.9/32", "2001::/23", "2001:3:1::/48"]) {
    assert.ok(!isSpecialNetwork(cidr(text)) && touchesSpecial(cidr(text)), text);
  }
});

test("the lists of networks have every range that needs a rule", () => {
  const never = NEVER_OPENED.map(({ text }) => text);
  for (const text of ["169.254.169.254/32", "127.0.0.0/8", "::1/128"]) assert.ok(never.includes(text), text);
  assert.ok(!never.includes("10.0.0.0/8"));
  const all = NOT_PUBLIC.map(({ text }) => text);
  for (const text of [...never, "10.0.0.0/8", "fc00::/7"]) assert.ok(all.includes(text), text);
});
