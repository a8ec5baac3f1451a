import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import fc from "fast-check";
import type { EgressPolicySpec } from "../../operator/api/egresspolicy.ts";
import { publish } from "../../operator/reconcile/decision/published-ips.ts";
import { publishedFeed } from "../../operator/reconcile/objects/published/feed.ts";
import {
  MAX_CHANGES,
  type PublishedIPs,
  type PublishedList,
  parsePublished,
  statesOf,
  textOfPublished,
} from "../../operator/reconcile/objects/published/list.ts";
import { publishedPage } from "../../operator/reconcile/objects/published/page.ts";
import { fits, type RootSchema } from "../harness/json-schema.ts";
import { programMissing } from "../harness/packages.ts";
import { runs } from "../harness/runs.ts";
import { A, at, B, C, NOW, pending, retiring, specOf } from "./worlds.ts";

/** The changes of a published list, and its forms: schema, page and feed. */

const SCHEMA: RootSchema = JSON.parse(readFileSync(new URL("../../docs/ips.schema.json", import.meta.url), "utf8"));
const POLICY = { name: "webhooks", uid: "0b7f7a9e-3c1c-4a1e-9d83-0e4a51a1c001" };

const first = publish(specOf("External", [A, pending(B)]), [], undefined, at(NOW));
const second = publish(specOf("External", [A, B]), [], first.json, at(NOW + 1000));

test("a change of the state of an address is the first of the changes", () => {
  assert.deepEqual(second.json.changes, [
    { address: B, state: "Active", since: at(NOW + 1000) },
    { address: A, state: "Active", since: at(NOW) },
    { address: B, state: "Pending", since: at(NOW) },
  ]);
  const third = publish(specOf("External", [A]), [], second.json, at(NOW + 2000));
  assert.deepEqual(third.json.changes[0], { address: B, state: "Removed", since: at(NOW + 2000) });
  const again = publish(specOf("External", [A, B]), [], third.json, at(NOW + 3000));
  assert.deepEqual(again.json.changes[0], { address: B, state: "Active", since: at(NOW + 3000) });
});

test("a list of an older operator gets no invented changes", () => {
  const { changes: _, ...older } = first.json;
  const read = parsePublished(JSON.stringify(older))!;
  assert.deepEqual(read, { ...first.json, changes: [] });
  assert.deepEqual(publish(specOf("External", [A, pending(B)]), [], read, at(NOW + 1000)).json, read);
});

test("changes that are not valid are dropped from a stored list", () => {
  const good = { address: A, state: "Active", since: at(NOW) };
  const bad = [
    null,
    3,
    {},
    { ...good, address: "x" },
    { ...good, state: "Gone" },
    { ...good, since: "<b>" },
    { ...good, since: "2026-13-45T99:99:99Z" },
  ];
  const text = (changes: unknown) => JSON.stringify({ ...first.json, changes });
  assert.deepEqual(parsePublished(text([...bad, good]))?.changes, [good]);
  assert.deepEqual(parsePublished(text("none"))?.changes, []);
  assert.equal(parsePublished(text(Array(1000).fill(good)))?.changes.length, MAX_CHANGES);
  assert.equal(parsePublished('{"ipv4": ["x"]}'), undefined);
  assert.equal(parsePublished("{"), undefined);
});

test("a stored time that is none is replaced", () => {
  for (const updatedAt of [undefined, 5, {}, "", "<b>", "2026-13-45T99:99:99Z"]) {
    const read = parsePublished(JSON.stringify({ ...first.json, updatedAt }))!;
    const next = publish(specOf("External", [A, pending(B)]), [], read, at(NOW + 1000)).json;
    assert.deepEqual(next, { ...first.json, updatedAt: at(NOW + 1000) });
    assert.match(publishedFeed(POLICY, next), /<updated>2026-/);
  }
});

const phase = fc.constantFrom("Pending", "Active", "Retiring");
const specs = fc
  .uniqueArray(fc.tuple(fc.constantFrom(A, B, C, "2001:db8::1", "2001:DB8::2"), phase), { selector: ([one]) => one })
  .map((ips) => ({ staticIPs: ips.map(([address, phase]) => ({ address, phase })) }) as EgressPolicySpec);

test("the last change of each address has its state, in every sequence of specs", () => {
  fc.assert(
    fc.property(fc.array(specs, { minLength: 1, maxLength: 40 }), (sequence) => {
      let before: PublishedList | undefined;
      for (const [i, spec] of sequence.entries()) {
        const { json } = publish(spec, [], before, at(NOW + i * 1000));
        assert.deepEqual(publish(spec, [], json, at(NOW + i * 1000 + 1)).json, json, "an equal list changes nothing");
        assert.ok(json.changes.length <= MAX_CHANGES);
        const times = json.changes.map(({ since }) => since);
        assert.deepEqual(times, times.toSorted().toReversed());
        const last = new Map(json.changes.toReversed().map(({ address, state }) => [address, state]));
        const states = statesOf(json);
        for (const [address, state] of last) assert.equal(states.get(address) ?? "Removed", state, address);
        if (json.changes.length < MAX_CHANGES) assert.ok([...states.keys()].every((address) => last.has(address)));
        assert.ok(fits(SCHEMA, SCHEMA, JSON.parse(textOfPublished(json))), "it fits the schema");
        assert.deepEqual(parsePublished(textOfPublished(json)), json);
        before = json;
      }
    }),
    { numRuns: runs(200) },
  );
});

test("the schema rejects a list with other states or without a key", () => {
  const { pending: _, ...without } = second.json;
  const odd = { ...second.json, changes: [{ address: A, state: "Gone", since: at(NOW) }] };
  for (const value of [without, odd, { ...second.json, ipv4: ["a b"] }]) assert.ok(!fits(SCHEMA, SCHEMA, value));
});

test("page and feed of equal lists have equal bytes", () => {
  const copy: PublishedIPs = structuredClone(second);
  assert.equal(publishedPage("webhooks", copy.json), publishedPage("webhooks", second.json));
  assert.equal(publishedFeed(POLICY, copy.json), publishedFeed(POLICY, second.json));
});

test("the page shows each address with its state, and no tags of others", () => {
  const page = publishedPage(
    "<b>",
    publish(specOf("External", [A, pending(B), retiring(C)]), [], undefined, at(NOW)).json,
  );
  for (const [address, state] of [
    [A, "Active"],
    [B, "Pending"],
    [C, "Retiring"],
  ]) {
    assert.ok(page.includes(`<code>${address}</code></td><td class="state">${state}</td>`), state);
  }
  assert.ok(page.includes(`${A}/32\n${B}/32\n${C}/32</pre>`));
  assert.ok(page.includes("&lt;b&gt;") && !page.includes("<b>"));
  const empty = publishedPage("webhooks", publish(specOf("External", []), [], undefined, at(NOW)).json);
  assert.match(empty, /No addresses are published/);
});

const PARSE = `
import sys, xml.etree.ElementTree as tree
from datetime import datetime
atom = "{http://www.w3.org/2005/Atom}"
feed = tree.fromstring(sys.stdin.buffer.read())
assert feed.tag == atom + "feed", feed.tag
ids = [one.text for one in feed.iter(atom + "id")]
assert len(ids) == len(set(ids)), ids
for one in feed.iter(atom + "updated"): datetime.fromisoformat(one.text.replace("Z", "+00:00"))
for entry in feed.findall(atom + "entry"): print(entry.find(atom + "title").text)
`;

test("an XML parser reads the feed", { skip: programMissing("python3") ?? false }, () => {
  const input = publishedFeed({ ...POLICY, name: 'a & "b" <c>' }, second.json);
  const { stdout, stderr } = spawnSync("python3", ["-c", PARSE], { input, encoding: "utf8" });
  assert.equal(stdout, `${B} is Active\n${A} is Active\n${B} is Pending\n`, stderr);
});
