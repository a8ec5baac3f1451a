import assert from "node:assert/strict";
import { test } from "node:test";
import { formatAddress, parseAddress, parseCidr } from "../../proxy/policy/cidr.ts";
import { makeDocument, readDocument } from "../../proxy/policy/document.ts";
import { type CompileOptions, compile, decideKnown } from "../../proxy/policy/engine.ts";
import { specialClass } from "../../proxy/policy/special.ts";
import { parseAuthority } from "../../proxy/policy/target.ts";

/** IPv4 addresses inside IPv6 addresses: mapped ones are IPv4, translated ones are vetted as the IPv4 address. */

const TARGET = parseAuthority("a.example:443")!;

/** The decision for a name with this one address. */
function decided(address: string, partial: Parameters<typeof makeDocument>[0] = {}, options: CompileOptions = {}) {
  const { verdict, reason, vetted } = decideKnown(compile(makeDocument(partial), options), TARGET, [address]);
  return { verdict, reason, address: vetted[0]?.address };
}

test("an IPv4-mapped answer is vetted as the IPv4 address in it", () => {
  assert.deepEqual(decided("::ffff:8.8.8.8"), {
    verdict: "allow",
    reason: "allowed by the default action",
    address: "8.8.8.8",
  });
  assert.match(decided("::ffff:10.0.0.5").reason, /resolves to a private address \(10\.0\.0\.0\/8\)/);
});

test("an IPv4-mapped answer is denied without an IPv4 static IP", () => {
  const allow = [{ hosts: ["a.example"], cidrs: ["::/0"] }];
  const { verdict, reason } = decided("::ffff:8.8.8.8", { allow, staticIPs: [{ address: "2600::10" }] });
  assert.deepEqual([verdict, reason], ["deny", "a.example resolves to IPv4, for which there is no static IP"]);
});

test("an IPv4-mapped static IP protects the IPv4 address", () => {
  const { reason } = decided("93.184.216.34", { staticIPs: [{ address: "::ffff:93.184.216.34" }] });
  assert.match(reason, /one of the policy's own static IPs/);
});

test("rejects an IPv4-mapped network and names the IPv4 network", () => {
  assert.deepEqual(parseCidr("::ffff:10.0.0.0/104"), {
    error: '"::ffff:10.0.0.0/104" has IPv4-mapped addresses, which are treated as IPv4; write 10.0.0.0/8',
  });
  assert.ok("error" in parseCidr("::ffff:0:0/96"));
  assert.ok(!("error" in parseCidr("::fffe:0:0/95")));
  const rule = { version: 1, policy: "a/b", allow: [{ hosts: ["*"], cidrs: ["::ffff:0:0/96"] }] };
  assert.throws(() => readDocument(rule), /allow\[0\]\.cidrs\[0\]: .* write 0\.0\.0\.0\/0/);
});

test("an IPv4-compatible address is not read as IPv4-mapped", () => {
  assert.equal(formatAddress(parseAddress("::8.8.8.8")!), "::808:808");
  assert.equal(parseAddress("::8.8.8.8")!.family, 6);
  assert.equal(specialClass("::8.8.8.8"), "IPv4-compatible");
  assert.equal(formatAddress(parseAddress("64:ff9b::1.2.3.4")!), "64:ff9b::102:304");
  assert.equal(formatAddress(parseAddress("1:2:3:4:5:6:1.2.3.4")!), "1:2:3:4:5:6:102:304");
  for (const text of [
    "::1.2.3",
    "::01.2.3.4",
    "::1.2.3.4:5",
    "1.2.3.4::",
    "1:2:3:4:5:6:7:1.2.3.4",
    "::1.2.3.4.",
    ":1.2.3.4",
  ]) {
    assert.equal(parseAddress(text), null, text);
  }
});

test("no rule opens the IPv6 metadata addresses of the clouds", () => {
  const allow = [{ hosts: ["a.example"], cidrs: ["::/0", "fd00::/8", "fd00:ec2::/32"] }];
  for (const address of [
    ..."fd00:ec2::254 fd00:ec2::23 fd00:ec2::253 fd20:ce::254 fd00:c1::a9fe:a9fe fd00:42::42".split(" "),
    ..."fd00:100::100:200 fd00:a9fe:a9fe::1 fe80::a9fe:a9fe".split(" "),
  ]) {
    const { verdict, reason } = decided(address, { allow }, { allowCIDRs: ["::/0"] });
    assert.equal(verdict, "deny", address);
    assert.match(reason, /cloud metadata|link-local/);
  }
  assert.equal(decided("fd00:42::43", { allow }).verdict, "allow");
});

/** Bytes of 169.254.169.254 in each layout of RFC 6052 §2.2, followed by bits that are not zero. */
const METADATA_IN: Record<number, string> = {
  32: "2001:db8:a9fe:a9fe:ff00::1",
  40: "2001:db8:a9:fea9:fffe::1",
  48: "2001:db8:1:a9fe:ffa9:fe00::1",
  56: "2001:db8:1:a9:fffe:a9fe::1",
  64: "2001:db8:1:2:ffa9:fea9:fe00:1",
  96: "2001:db8:1:2:0:3:a9fe:a9fe",
};

test("vets addresses of configured NAT64 prefixes of every length", () => {
  for (const [length, address] of Object.entries(METADATA_IN)) {
    const bits = Number(length);
    const groups = { 32: "2001:db8", 40: "2001:db8:0", 48: "2001:db8:1", 56: "2001:db8:1:0", 64: "2001:db8:1:2" }[bits];
    const prefix = `${groups ?? "2001:db8:1:2:0:3"}::/${bits}`;
    const allow = [{ hosts: ["a.example"], cidrs: ["2001:db8::/32"] }];
    assert.equal(decided(address, { allow }).verdict, "allow", `${address} without ${prefix}`);
    const { verdict, reason } = decided(address, { allow }, { nat64Prefixes: [prefix] });
    assert.deepEqual([verdict, /cloud metadata/.test(reason)], ["deny", true], `${address} in ${prefix}: ${reason}`);
  }
});

test("allows NAT64 addresses of public IPv4 addresses without a rule", () => {
  const options = { nat64Prefixes: ["fd64::/96"] };
  assert.equal(decided("fd64::8.8.8.8").verdict, "deny");
  assert.equal(decided("fd64::8.8.8.8", {}, options).verdict, "allow");
  assert.match(decided("fd64::10.0.0.5", {}, options).reason, /a private address/);
  assert.match(decided("fd64::8.8.8.8", {}, { ...options, ownAddresses: ["fd64::/96"] }).reason, /own machine/);
});

test("vets 64:ff9b:1::/48 as the IPv4 address of every layout", () => {
  const allow = [{ hosts: ["a.example"], cidrs: ["64:ff9b:1::/48"] }];
  const judged = (address: string) => decided(address, { allow }).verdict;
  for (const metadata of [
    "64:ff9b:1:a9fe:00a9:fe00::",
    "64:ff9b:1:a9fe:00a9:fe00:0808:0808",
    "64:ff9b:1:12a9:00fe:a9fe::",
    "64:ff9b:1:12a9:fffe:a9fe:0808:0808",
    "64:ff9b:1:1234:00a9:fea9:fe00:0",
    "64:ff9b:1:1234:00a9:fea9:fe08:0808",
    "64:ff9b:1::169.254.169.254",
    "64:ff9b:1:5db8:00d8:2200:169.254.169.254",
    "64:ff9b:1::",
  ]) {
    assert.equal(judged(metadata), "deny", metadata);
  }
  for (const good of ["64:ff9b:1::8.8.8.8", "64:ff9b:1:5db8:00d8:2200::"]) assert.equal(judged(good), "allow", good);
  // The length is known: other layouts do not count.
  const options = { nat64Prefixes: ["64:ff9b:1:a00::/96"] };
  assert.equal(decided("64:ff9b:1:a00::8.8.8.8", { allow }).verdict, "deny");
  assert.equal(decided("64:ff9b:1:a00::8.8.8.8", {}, options).verdict, "allow");
});

test("rejects an invalid NAT64 prefix with its reason", () => {
  for (const [prefix, message] of [
    ["10.0.0.0/8", /must be IPv6/],
    ["2001:db8::/33", /prefix length of 32, 40, 48, 56, 64, 96/],
    ["2001:db8::1/96", /host bits set/],
    ["nat64", /is not a CIDR/],
  ] as const) {
    assert.throws(() => compile(makeDocument({}), { nat64Prefixes: [prefix] }), message);
  }
});

test("denies own networks unless the cidrs of a rule open them", () => {
  const options = { ownAddresses: ["93.184.216.0/24", "2600::/64", "8.8.4.4"], listenPorts: [4750] };
  for (const address of ["93.184.216.34", "2600::77", "8.8.4.4", "::ffff:93.184.216.34"]) {
    assert.match(decided(address, {}, options).reason, /an address of the proxy's own machine/);
  }
  assert.equal(decided("8.8.8.8", {}, options).verdict, "allow");
  const allow = [{ hosts: ["a.example"], cidrs: ["93.184.216.0/24"] }];
  assert.equal(decided("93.184.216.34", { allow }, options).verdict, "allow");
  const set = compile(makeDocument({ allow }), options);
  const admin = parseAuthority("a.example:4750")!;
  assert.match(decideKnown(set, admin, ["93.184.216.34"]).reason, /this proxy itself/);
});
