import assert from "node:assert/strict";
import { test } from "node:test";
import { makeDocument } from "../../proxy/policy/document.ts";
import { compile, decideKnown } from "../../proxy/policy/engine.ts";
import { parseAuthority } from "../../proxy/policy/target.ts";

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
