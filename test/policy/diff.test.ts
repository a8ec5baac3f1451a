import assert from "node:assert/strict";
import { test } from "node:test";
import { TooComplexError } from "../../proxy/policy/diff/budget.ts";
import { describeDiff } from "../../proxy/policy/diff/describe.ts";
import { diffPolicies } from "../../proxy/policy/diff/diff.ts";
import { writeDiff } from "../../proxy/policy/diff/written.ts";
import { makeDocument, type PolicyDocument } from "../../proxy/policy/document.ts";
import { compile } from "../../proxy/policy/engine.ts";
import type { Rule } from "../../proxy/policy/rules.ts";
import { ip, range } from "./evaluator.ts";

const access = { mode: null, allowMissing: false, sharedClient: "default" } as const;
const UNITS = 20_000_000;
const MAX_CPU_MS = 30_000;

const diff = (old: Partial<PolicyDocument>, now: Partial<PolicyDocument>, units = UNITS) => {
  const [one, other] = [old, now].map((partial) => ({ policy: compile(makeDocument(partial)), access }));
  return diffPolicies(one!, other!, units);
};
const openings = (old: Partial<PolicyDocument>, now: Partial<PolicyDocument>) =>
  writeDiff(diff(old, now)).differences.filter(({ change }) => change === "opens");

const names = (count: number, zone: string) =>
  Array.from({ length: count }, (_, i) => `${i % 3 === 0 ? "*." : ""}h${i}.${zone}.example`);
const networks = (count: number, first: number) =>
  Array.from({ length: count }, (_, i) =>
    i % 10 === 0 ? `2a00:${first}:${i.toString(16)}::/48` : `${first}.${i >> 8}.${i & 255}.0/24`,
  );
const rules = (cidrs: string[]): Rule[] =>
  Array.from({ length: 20 }, (_, i) => ({ name: `range-${i}`, cidrs: cidrs.filter((_, j) => j % 20 === i) }));
const long = (zone: string, first: number): Partial<PolicyDocument> => ({
  deny: [...rules(networks(10_000, first)), { name: "names", hosts: names(10_000, zone) }],
});

const LARGE: [what: string, old: Partial<PolicyDocument>, now: Partial<PolicyDocument>][] = [
  [
    "one name of 10,000",
    long("a", 20),
    { deny: [...long("a", 20).deny!.slice(0, -1), { name: "names", hosts: names(9999, "a") }] },
  ],
  ["one range of 10,000", long("a", 20), { deny: long("a", 20).deny!.slice(1) }],
  ["all names and ranges", long("a", 20), long("b", 40)],
  ["the default action", long("a", 20), { ...long("a", 20), defaultAction: "Deny" }],
  [
    "100 allow rules with names and ports",
    { ...long("a", 20), defaultAction: "Deny" },
    {
      ...long("a", 20),
      defaultAction: "Deny",
      allow: Array.from({ length: 100 }, (_, i) => ({ name: `r${i}`, hosts: [`own${i}.example`], ports: [i + 1] })),
    },
  ],
  [
    "a shared set of 10,000 names of 20 clients",
    ...([10_000, 9999].map((count) => ({
      version: 2,
      hostSets: [{ name: "s", hosts: names(count, "a") }],
      clients: [
        ...Array.from({ length: 20 }, (_, i) => ({ name: `c${i}`, allow: [{ hosts: ["set:s", `own${i}.example`] }] })),
        { name: "default" },
      ],
    })) as [Partial<PolicyDocument>, Partial<PolicyDocument>]),
  ],
];

for (const [what, old, now] of LARGE) {
  test(`compares large policies: ${what}`, (t) => {
    const began = process.cpuUsage();
    const found = diff(old, now);
    const lines = describeDiff(found);
    JSON.stringify(writeDiff(found));
    const ms = process.cpuUsage(began).user / 1000;
    t.diagnostic(`${Math.round(ms)} ms of CPU, ${found.differences.length} differences`);
    assert.ok(lines.length > 1 && lines.every((line) => line.length < 2000));
    assert.ok(ms < MAX_CPU_MS, `${ms} ms of CPU`);
  });
}

test("gives up when the policies have too many combinations of rules", () => {
  assert.throws(() => diff(long("a", 20), long("b", 40), 10_000), TooComplexError);
});

test("sees IPv6 addresses that embed an IPv4 address in each layout", () => {
  const [change] = openings({ deny: [{ cidrs: ["8.8.8.0/24"] }] }, {});
  assert.deepEqual(change!.addresses, ["8.8.8.0/24", "64:ff9b::808:800/120"]);
  assert.deepEqual(
    change!.embedded.map(({ layout, lasts }) => [layout, lasts]),
    [["ISATAP", ["8.8.8.0/24"]]],
  );
  const opened: Partial<PolicyDocument> = {
    allow: [{ hosts: ["a.example"], cidrs: ["2002::/16", "2001::/32", "64:ff9b:1::/96", "::ffff:0:0:0/96"] }],
  };
  const all = openings({ ...opened, deny: [{ cidrs: ["8.8.8.0/24"] }] }, opened).filter(({ hosts }) =>
    hosts.includes("a.example"),
  );
  const ranges = all.flatMap(({ addresses }) => addresses);
  for (const range of ["2002:808:800::/40", "::ffff:0:808:800/120"]) assert.ok(ranges.includes(range), ranges.join());
  const layouts = all.flatMap(({ embedded }) => embedded);
  assert.deepEqual([...new Set(layouts.map(({ layout }) => layout))].sort(), [
    "ISATAP",
    "Teredo",
    "Teredo and ISATAP",
    "local-use NAT64",
  ]);
  // Teredo inverts the bits of the client.
  const teredo = layouts.filter(({ layout }) => layout === "Teredo").flatMap(({ lasts }) => lasts);
  assert.ok(teredo.includes("247.247.247.0/24"), teredo.join());
});

const inRange = (address: bigint, one: string): boolean => {
  const [low, high] = one.includes("/") ? range(one) : (one.split("-").map(ip) as [bigint, bigint]);
  return low <= address && address <= high;
};

test("divides a network whose addresses embed others, where a range covers a part of it", () => {
  const deny = [{ cidrs: ["8.8.8.8/32", "2606:4700::5efe:909:0/112"] }];
  const found = writeDiff(diff({}, { deny })).differences.flatMap(({ embedded }) => embedded);
  const address = ip("2606:4700::5efe:808:808");
  const inside = found.filter(({ networks }) => networks.some((one) => inRange(address, one)));
  assert.deepEqual(
    inside.map(({ lasts }) => lasts),
    [["8.8.8.8/32", "9.9.0.0/16"]],
  );
});

test("a name with many patterns around it keeps its own class", () => {
  const deep = `${"a".repeat(60)}.${"b".repeat(60)}.${"c".repeat(60)}.${"d".repeat(60)}.example`;
  assert.equal(deep.length, 251);
  const letters = [..."abcdefghijklmnopqrstuvwxyz_0123456789"].map((letter) => `${letter}.${deep}`);
  const old = { defaultAction: "Deny" as const, allow: [{ hosts: letters }] };
  // The longest names below it are all listed, so that the wildcard adds none.
  assert.deepEqual(openings(old, { ...old, allow: [{ hosts: [...letters, `*.${deep}`] }] }), []);
  const [change] = openings(
    { ...old, allow: [{ hosts: letters.slice(1) }] },
    { ...old, allow: [{ hosts: [`*.${deep}`] }] },
  );
  assert.deepEqual(change!.hosts, [`*.${deep}`]);
  assert.deepEqual(change!.except, letters.slice(1).sort());
});
