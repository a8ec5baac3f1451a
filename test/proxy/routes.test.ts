import assert from "node:assert/strict";
import { test } from "node:test";
import { routesOf } from "../../proxy/egress/verifier.ts";
import { makeDocument, type StaticIP } from "../../proxy/policy/document.ts";

/** Static IPs that must be seen for a proxy that binds a source. */

const SOURCE = "10.0.4.52";
const [USED, NEXT] = ["203.0.113.52", "203.0.113.50"];
const expected = (...staticIPs: StaticIP[]) =>
  routesOf(makeDocument({ staticIPs }), [{ address: SOURCE, family: 4, assigned: true }]).map((one) => [
    ...one.expected,
  ]);

test("a source is proven by the static IP in use, not by a Pending one", () => {
  const next: StaticIP = { address: NEXT, sourceAddress: SOURCE, phase: "Pending" };
  for (const phase of ["Active", "Retiring"] as const) {
    const used: StaticIP = { address: USED, sourceAddress: SOURCE, phase };
    assert.deepEqual(expected(next, used), [[USED]]);
    assert.deepEqual(expected(used, next), [[USED]]);
  }
  assert.deepEqual(expected(next, { address: SOURCE }), [[SOURCE]]);
});

test("a source is proven by a Pending static IP if no other one has it", () => {
  const other: StaticIP = { address: USED, sourceAddress: "10.0.4.53" };
  assert.deepEqual(expected(other, { address: NEXT, sourceAddress: SOURCE, phase: "Pending" }), [[NEXT]]);
});
