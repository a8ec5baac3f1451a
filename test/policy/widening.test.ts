import assert from "node:assert/strict";
import { test } from "node:test";
import { wideningOf } from "../../proxy/policy/diff/widening.ts";

const policy = (spec: object) => {
  const metadata = { name: "webhooks", namespace: "convoy" };
  return { apiVersion: "egress.outrider.dev/v1alpha1", kind: "EgressPolicy", metadata, spec };
};
const DENY = [
  { name: "competitors", hosts: ["*.competitor.example"] },
  { name: "range", cidrs: ["8.8.8.0/24"] },
];
const LISTED = { defaultAction: "Deny", allow: [{ name: "ok", hosts: ["ok.example"] }] };

const ROWS: [what: string, before: object, now: object, expected: string | undefined][] = [
  [
    "a rule that opens a private range",
    {},
    { allow: [{ hosts: ["api.internal.example"], cidrs: ["10.0.0.0/8", "fd00::/8"] }] },
    "this edit opens special-purpose ranges for api.internal.example: 10.0.0.0/8 (private), fd00::-fd00:42::41 (unique local), fd00:42::43-fd00:c1::a9fe:a9fd (unique local) and 5 more",
  ],
  [
    "a deny rule that is removed",
    { deny: DENY },
    { deny: [DENY[1]] },
    "this edit opens targets that deny rules refused (competitors): *.competitor.example",
  ],
  [
    "a deny rule that another one covers",
    { deny: [...DENY, { name: "twice", hosts: ["a.competitor.example"] }] },
    { deny: DENY },
    undefined,
  ],
  [
    "a wider default action",
    LISTED,
    { ...LISTED, defaultAction: "Allow" },
    "this edit opens targets that no rule lists: any name except ok.example; IP targets",
  ],
  [
    "the mode Report",
    LISTED,
    { ...LISTED, mode: "Report" },
    "this edit opens targets that no rule lists: any name except ok.example; IP targets",
  ],
  [
    "a further name of an allow list",
    LISTED,
    { ...LISTED, allow: [{ hosts: ["ok.example", "more.example"] }] },
    undefined,
  ],
  ["a further port", LISTED, { ...LISTED, ports: ["1-65535"] }, undefined],
  ["a narrower policy", {}, LISTED, undefined],
  [
    "no password any more",
    { authentication: { mode: "Basic" } },
    {},
    "this edit opens clients without a proof: any target",
  ],
  ["an invalid policy", {}, { allow: [{ hots: [] }] }, undefined],
];

for (const [what, before, now, expected] of ROWS) {
  test(`names what an edit opens: ${what}`, () => {
    assert.equal(wideningOf(policy(before), policy(now)), expected);
  });
}

test("gives up on a comparison that is too large", () => {
  const chunks = Array.from({ length: 600 }, (_, i) => ({
    hosts: [`a${i}.example`],
    ports: [i + 1, `${i + 2000}-${i + 3000}`],
    cidrs: Array.from({ length: 20 }, (_, j) => `${20 + (i % 100)}.${j}.${i >> 8}.0/24`),
  }));
  const began = process.cpuUsage();
  const text = wideningOf(
    policy({ defaultAction: "Deny" }),
    policy({ defaultAction: "Deny", mode: "Report", allow: chunks }),
  );
  const { user } = process.cpuUsage(began);
  assert.match(text!, /too large to compare/);
  assert.ok(user < 5_000_000, `${user} µs`);
});

const NAMES = Array.from({ length: 10_000 }, (_, i) => `n${i}.example`);

/** Rules that share a long host set, and clients that share it, with one more rule each. */
const SHARING: [what: string, spec: (more: boolean) => object, expected: RegExp][] = [
  [
    "rules",
    (more) => ({
      defaultAction: "Deny",
      hostSets: [{ name: "big", hosts: NAMES }],
      allow: [
        ...Array.from({ length: 400 }, (_, i) => ({ hosts: [`r${i}.example`, "set:big"], ports: [i + 1] })),
        ...(more ? [{ hosts: ["x.example"], cidrs: ["10.0.0.0/8"] }] : []),
      ],
    }),
    /special-purpose ranges for x\.example/,
  ],
  [
    "clients",
    (more) => ({
      defaultAction: "Deny",
      authentication: { mode: "Basic" },
      hostSets: [{ name: "big", hosts: NAMES }],
      clients: Array.from({ length: 400 }, (_, i) => ({
        name: `c${i}`,
        allow: [{ hosts: ["set:big"] }, ...(more ? [{ hosts: [`m${i}.example`], cidrs: ["10.0.0.0/8"] }] : [])],
      })),
    }),
    /too large to compare/,
  ],
  [
    "differing rules",
    (more) => ({
      defaultAction: "Deny",
      allow: [
        { hosts: NAMES },
        ...Array.from({ length: more ? 900 : 0 }, (_, i) => ({ hosts: [`m${i}.example`], ports: [i + 1] })),
      ],
    }),
    /too large to compare/,
  ],
];

for (const [what, spec, expected] of SHARING) {
  test(`bounds the comparison of ${what} beside a long host set`, () => {
    const began = process.cpuUsage();
    const text = wideningOf(policy(spec(false)), policy(spec(true)));
    const { user } = process.cpuUsage(began);
    assert.match(text ?? "", expected);
    assert.ok(user < 2_500_000, `${user} µs`);
  });
}
