import assert from "node:assert/strict";
import { test } from "node:test";
import { parseAddress } from "../../proxy/policy/cidr.ts";
import { makeDocument } from "../../proxy/policy/document.ts";
import {
  type CompileOptions,
  compile,
  decideKnown,
  decideName,
  refuseOwn,
  vetAll,
  withOwn,
} from "../../proxy/policy/engine.ts";
import { parseAuthority } from "../../proxy/policy/target.ts";

const target = (text: string) => parseAuthority(text)!;
const address = (text: string) => parseAddress(text)!;

test("a rule's cidrs open a private range for its hosts and ports only", () => {
  const set = compile(
    makeDocument({
      defaultAction: "Allow",
      allow: [{ hosts: ["orders.shop"], cidrs: ["10.96.0.0/12"], ports: [8080] }],
    }),
  );
  const ask = (target: string, address: string) => decideKnown(set, parseAuthority(target)!, [address]).verdict;
  assert.equal(ask("orders.shop:8080", "10.96.3.4"), "allow");
  assert.equal(ask("orders.shop:80", "10.96.3.4"), "deny");
  assert.equal(ask("other.shop:8080", "10.96.3.4"), "deny");
  assert.equal(ask("orders.shop:8080", "10.1.3.4"), "deny");
  assert.equal(ask("orders.shop:8080", "8.8.8.8"), "allow");
});

test("no document opens metadata addresses or loopback", () => {
  const set = compile(
    makeDocument({
      mode: "Report",
      allow: [{ hosts: ["*"], cidrs: ["0.0.0.0/0", "::/0"] }, { cidrs: ["0.0.0.0/0", "::/0"] }],
    }),
  );
  for (const address of [
    "169.254.169.254",
    "127.0.0.1",
    "::1",
    "fe80::1",
    "100.100.100.200",
    "64:ff9b::a9fe:a9fe",
    "::ffff:127.0.0.1",
  ]) {
    const decision = decideKnown(set, parseAuthority("evil.example:80")!, [address]);
    assert.equal(decision.code, "address", address);
  }
});

test("the rule that opens a private address is named, not an earlier one", () => {
  const hosts = ["a.example"];
  const set = compile(
    makeDocument({
      allow: [
        { name: "names", hosts },
        { name: "ranges", hosts, cidrs: ["10.0.0.0/8"] },
      ],
    }),
  );
  const ruleOf = (text: string) => decideKnown(set, target("a.example:443"), [text]).rule;
  assert.deepEqual([ruleOf("10.0.0.1"), ruleOf("8.8.8.8")], ["ranges", "names"]);
});

test("an address of the proxy's own machine is refused unless the policy opens it", () => {
  const own = "198.18.0.1";
  const refusal = (text: string, partial: Parameters<typeof makeDocument>[0] = {}, options: CompileOptions = {}) =>
    refuseOwn(compile(makeDocument(partial), options), target(text), address(own));
  const denied = (reason: string) => ({ code: "address", reason });
  assert.deepEqual(refusal("a.example:443"), denied("a.example resolves to an address of the proxy's own machine"));
  assert.deepEqual(refusal(`${own}:443`), denied(`${own} is an address of the proxy's own machine`));
  const cidrs = ["198.18.0.0/15"];
  assert.equal(refusal("a.example:443", {}, { allowCIDRs: cidrs }), null);
  assert.equal(refusal("a.example:443", { allow: [{ hosts: ["a.example"], cidrs }] }), null);
  assert.notEqual(refusal("b.example:443", { allow: [{ hosts: ["a.example"], cidrs }] }), null);
  const deny = [{ hosts: ["a.example"] }];
  assert.notEqual(refusal("a.example:443", { deny, allow: [{ hosts: ["a.example"], cidrs }] }), null);
});

test("a policy follows the addresses of its machine", () => {
  const before = compile(makeDocument({}), { ownAddresses: ["8.8.4.4"], hash: "sha256:1" });
  const after = withOwn(before, ["8.8.8.8", "9.9.9.0/24"]);
  const verdict = (set: typeof before, text: string) => decideKnown(set, target("a.example:443"), [text]).verdict;
  const found = ["8.8.4.4", "8.8.8.8", "9.9.9.9"].map((one) => [verdict(before, one), verdict(after, one)]);
  assert.deepEqual(found, [
    ["deny", "allow"],
    ["allow", "deny"],
    ["allow", "deny"],
  ]);
  assert.deepEqual([before.hash, after.hash], ["sha256:1", "sha256:1"]);
});

test("a route to a NAT64 translator on this machine has to be opened", () => {
  const prefix = "2001:db8:64::/96";
  const verdict = (options: CompileOptions) => {
    const set = compile(makeDocument({}), { nat64Prefixes: [prefix], ...options });
    return decideKnown(set, target("a.example:443"), ["2001:db8:64::808:808"]).verdict;
  };
  assert.equal(verdict({}), "allow");
  assert.equal(verdict({ ownAddresses: [prefix] }), "deny");
  assert.equal(verdict({ ownAddresses: [prefix], allowCIDRs: [prefix] }), "allow");
});

test("the family of the bound addresses decides, not that of the static IPs", () => {
  const set = compile(makeDocument({ staticIPs: [{ address: "2606:4700::10" }] }), { sourceAddresses: ["10.0.0.7"] });
  const reason = (text: string) => decideKnown(set, target("a.example:443"), [text]).reason;
  assert.equal(reason("8.8.8.8"), "allowed by the default action");
  assert.equal(reason("2606:4700::1"), "a.example resolves to IPv6, for which there is no static IP");
});

test("dials exactly the addresses that passed, in their order", () => {
  const vetted = (partial: Parameters<typeof makeDocument>[0], ...addresses: string[]) => {
    const set = compile(makeDocument(partial));
    const names = decideName(set, target("a.example:443"));
    if ("code" in names) assert.fail(names.reason);
    return vetAll(set, target("a.example:443"), names, addresses.map(address));
  };
  const [first, second] = ["9.9.9.9", "8.8.8.8"] as const;
  assert.deepEqual(vetted({}, first, "10.0.0.1", second), {
    dial: [address(first), address(second)],
    rule: "default",
  });
  const none = vetted({}, "10.0.0.1");
  assert.deepEqual([none.dial, none.rule, none.refusal?.code], [[], "", "address"]);
  const deny = [{ name: "range", cidrs: ["8.8.8.0/24"] }];
  const refused = vetted({ deny }, second);
  assert.deepEqual([refused.dial, refused.rule, refused.refusal?.code], [[], "range", "denied-rule"]);
  assert.deepEqual(vetted({ deny, mode: "Report" }, "10.0.0.1", second), {
    dial: [address(second)],
    rule: "range",
    wouldDeny: { code: "denied-rule", rule: "range" },
  });
});

test("Report mode keeps the address of a port that is not allowed", () => {
  const set = compile(makeDocument({ mode: "Report", ports: [443] }));
  const { verdict, wouldDeny, vetted } = decideKnown(set, target("a.example:80"), ["8.8.8.8"]);
  assert.deepEqual([verdict, wouldDeny], ["allow", { code: "port", rule: "default" }]);
  assert.deepEqual(vetted, [{ address: "8.8.8.8", in: true, rule: "default" }]);
});

test("a refused name has no vetted address, and other text is no address", () => {
  const set = compile(makeDocument({ deny: [{ hosts: ["a.example"] }] }));
  assert.deepEqual(decideKnown(set, target("a.example:443"), ["8.8.8.8"]).vetted, []);
  assert.throws(() => decideKnown(set, target("b.example:443"), ["x"]), /^TypeError: not an IP address: x$/);
});
