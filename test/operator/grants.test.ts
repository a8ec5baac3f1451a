import assert from "node:assert/strict";
import { test } from "node:test";
import type { EgressPolicy } from "../../operator/api/egresspolicy.ts";
import { external } from "../../operator/providers/external.ts";
import { notGranted, parseGrants } from "../../operator/providers/grants.ts";
import { kubeVIP } from "../../operator/providers/kubevip.ts";
import { nodeAddress } from "../../operator/providers/nodeaddress.ts";

const GRANTS = parseGrants(`
grants:
  - {namespaces: [convoy], providers: [KubeVIP], staticIPs: [203.0.113.16/28, "2001:db8::/64"]}
  - {namespaces: ["*"], providers: [KubeVIP], staticIPs: [198.51.100.9/32]}
`);
const spec = (...staticIPs: object[]) => ({ staticIPs }) as EgressPolicy["spec"];

test("a grant allows addresses of a provider to namespaces", () => {
  assert.equal(
    notGranted(GRANTS, "convoy", kubeVIP, spec({ address: "203.0.113.17" }, { address: "2001:db8::7" })),
    undefined,
  );
  assert.equal(notGranted(GRANTS, "other", kubeVIP, spec({ address: "198.51.100.9" })), undefined);
  assert.match(
    notGranted(GRANTS, "convoy", kubeVIP, spec({ address: "203.0.113.17" }, { address: "203.0.113.32" }))!,
    /^spec\.staticIPs\[1\]\.address: namespace convoy has no grant for 203\.0\.113\.32; ask the administrator/,
  );
  assert.match(
    notGranted(GRANTS, "convoy", kubeVIP, spec({ address: "203.0.113.17", sourceAddress: "10.0.0.7" }))!,
    /staticIPs\[0\]\.sourceAddress.*10\.0\.0\.7/,
  );
});

test("exclusive addresses need a grant, External does not", () => {
  assert.match(notGranted([], "convoy", kubeVIP, spec({ address: "203.0.113.17" }))!, /no grant for KubeVIP/);
  assert.match(
    notGranted(GRANTS, "convoy", nodeAddress, spec({ address: "203.0.113.17" }))!,
    /no grant for NodeAddress/,
  );
  assert.equal(notGranted([], "convoy", external, spec({ address: "203.0.113.17" })), undefined);
});

for (const [text, message] of [
  [
    "grants: [{namespaces: [a], providers: [KubeVIP]}]",
    /^grants\[0\]\.staticIPs: is empty; a grant needs providers and staticIPs$/,
  ],
  ["grant: []", /^grant: unknown key; did you mean grants\?/],
  ["grants: [{namespaces: []}]", /^grants\[0\]\.namespaces: is empty/],
  ["grants: [{namespaces: [Convoy]}]", /^grants\[0\]\.namespaces\[0\]: must be a namespace, or \*/],
  [
    "grants: [{namespaces: [a], providers: [KubeVip], staticIPs: [203.0.113.0/24]}]",
    /^grants\[0\]\.providers\[0\]: must be one of External, PodIP, NodeAddress, KubeVIP/,
  ],
  [
    "grants: [{namespaces: [a], providers: [KubeVIP], staticIPs: [203.0.113.1/24]}]",
    /^grants\[0\]\.staticIPs\[0\]: .*host bits set; the network is 203\.0\.113\.0\/24/,
  ],
] as const) {
  test(`reports a wrong grant: ${text}`, () => assert.throws(() => parseGrants(text), { message }));
}
