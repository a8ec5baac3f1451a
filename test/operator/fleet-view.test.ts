import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import type { EgressPolicy } from "../../operator/api/egresspolicy.ts";
import type { Pod } from "../../operator/api/objects.ts";
import { ApiError } from "../../operator/kube/error.ts";
import { type FleetObjects, SPARE_HINT, viewOf } from "../../operator/overview/overview.ts";
import { failureOf, unknownPolicy } from "../../operator/tools/failure.ts";
import { countsOf, ratesOf } from "../../operator/tools/proxy-metrics.ts";
import {
  type CheckedPath,
  echoesOf,
  type LiveExplanation,
  readExplanation,
  renderChecks,
  renderExplanation,
} from "../../operator/tools/render-answers.ts";
import { renderFleet, renderList } from "../../operator/tools/render-fleet.ts";
import { renderTop } from "../../operator/tools/render-top.ts";
import { age, paintFor, plain, safe, safeJson, table } from "../../operator/tools/text.ts";

/** The texts of `outrider get` and the kubectl plugin. docs/kubectl.md shows the same ones. */

const page = readFileSync(new URL("../../docs/kubectl.md", import.meta.url), "utf8");
const NOW = Date.parse("2026-11-27T12:00:00Z");
const HASH = `sha256:${"3f9c21d07ab4".padEnd(64, "0")}`;
const OTHER = `sha256:${"77aa00bb11cc".padEnd(64, "0")}`;

/** Whether the page shows a text as a block. */
function assertShown(text: string): void {
  const block = text.replace(/^(?=.)/gm, "    ");
  assert.ok(page.includes(`${block}\n`), `docs/kubectl.md lacks this block:\n${block}`);
}

const condition = (type: string, status: "True" | "False" | "Unknown", reason: string, message: string) => ({
  ...{ type, status, reason, message },
  observedGeneration: 2,
  lastTransitionTime: "2026-11-27T11:55:00Z",
});

const policy = {
  apiVersion: "egress.outrider.dev/v1alpha1",
  kind: "EgressPolicy",
  metadata: {
    ...{ name: "webhooks", namespace: "convoy", uid: "u1", generation: 2 },
    creationTimestamp: "2026-11-24T12:00:00Z",
  },
  spec: {
    ...{ mode: "Enforce", preset: "Convoy", nat: { provider: "External" } },
    staticIPs: [{ address: "203.0.113.10", phase: "Active" }],
    injection: { mode: "Env" },
    authentication: { mode: "None" },
  },
  status: {
    ...{ observedGeneration: 2, ready: "True" },
    conditions: [
      condition("WorkloadsInjected", "False", "Missed", "1 of 2 pods has the current proxy settings"),
      condition("Ready", "True", "Ready", "the fleet serves"),
    ],
    staticIPs: [
      {
        ...{ address: "203.0.113.10", state: "Verified", observedAddress: "203.0.113.10" },
        lastTransitionTime: "2026-11-27T11:00:00Z",
      },
    ],
    endpoint: { host: "webhooks-egress.convoy.svc.cluster.local", port: 4750 },
    summary: { verified: "1/1", proxies: "2/2", workloads: "0/1", policyHash: HASH },
  },
} as unknown as EgressPolicy;

const proxy = (name: string, node: string, ready: boolean): Pod =>
  ({
    metadata: { name, namespace: "convoy", labels: { "egress.outrider.dev/fleet": "webhooks" } },
    spec: { nodeName: node, containers: [{ image: "outrider:0.1.0" }] },
    status: { conditions: [{ type: "Ready", status: ready ? "True" : "False" }] },
  }) as unknown as Pod;

const objects: FleetObjects = {
  policy,
  proxies: [proxy("webhooks-egress-b", "node-2", false), proxy("webhooks-egress-a", "node-1", true)],
  pods: [
    { metadata: { name: "agent-1", namespace: "convoy", labels: { "egress.outrider.dev/policy": "webhooks" } } },
    { metadata: { name: "unrelated", namespace: "convoy" } },
  ],
  namespaceLabels: undefined,
  events: [
    {
      ...{ apiVersion: "v1", kind: "Event", metadata: { name: "e", namespace: "convoy" } },
      involvedObject: { kind: "EgressPolicy", name: "webhooks", namespace: "convoy", uid: "u1" },
      ...{ type: "Warning", reason: "Missed", message: "1 pod is not injected: agent-1", count: 3 },
      lastTimestamp: "2026-11-27T11:58:00Z",
    },
  ],
};

test("an explanation of another form is an error", () => {
  const good = {
    target: "a:1",
    verdict: "allow",
    reason: "x",
    addresses: [{ address: "1", class: "c", verdict: "in" }],
  };
  assert.deepEqual(readExplanation(JSON.stringify(good)), good);
  for (const bad of [
    null,
    {},
    { ...good, addresses: null },
    { ...good, addresses: [null] },
    { ...good, rule: 1 },
    { ...good, wouldDeny: null },
  ]) {
    assert.throws(() => readExplanation(JSON.stringify(bad)), /\/explain has an unknown form/);
  }
});

test("the detail of a fleet is that of the page", () => {
  const view = viewOf(objects);
  Object.assign(view.proxies![0]!, { version: "0.1.0", hash: HASH });
  assertShown(renderFleet(view, NOW, plain));
});

test("the list of fleets has their problems and hints, as on the page", () => {
  assertShown(renderList([viewOf(objects)], { all: false, wide: false, now: NOW }, plain));
});

test("the wide list of all namespaces has addresses and hashes", () => {
  const text = renderList([viewOf(objects)], { all: true, wide: true, now: NOW }, plain);
  assert.match(text, /^NAMESPACE +NAME +READY .* IPS +HASH +PRESET +ENDPOINT +AGE\nconvoy +webhooks +True /);
  assert.match(
    text,
    /203\.0\.113\.10 +sha256:3f9c21d07ab4 +Convoy +webhooks-egress\.convoy\.svc\.cluster\.local:4750 +3d\n/,
  );
});

test("the hint about a spare address is left out with one, and without addresses", () => {
  const hintsWith = (staticIPs: object[]) =>
    viewOf({ ...objects, policy: { ...policy, spec: { ...policy.spec, staticIPs } } as EgressPolicy }).hints;
  assert.deepEqual(hintsWith([{ address: "203.0.113.10" }]), [SPARE_HINT]);
  assert.deepEqual(hintsWith([{ address: "203.0.113.10" }, { address: "203.0.113.11", phase: "Pending" }]), []);
  assert.deepEqual(hintsWith([]), []);
});

test("a status of an older spec is not shown as ready", () => {
  const view = viewOf({ ...objects, policy: { ...policy, metadata: { ...policy.metadata, generation: 3 } } });
  assert.equal(view.ready, "Unknown");
  assert.ok(view.conditions.every(({ current }) => !current));
});

test("parts that the reader may not read are null", () => {
  const view = viewOf({ ...objects, proxies: undefined, pods: undefined, events: undefined });
  assert.deepEqual([view.proxies, view.pods, view.events], [null, null, null]);
  assert.match(renderFleet(view, NOW, plain), /not shown: you may not list events/);
});

const WHY = "internal.example resolves to a private address (10.0.0.0/8)";

const live: LiveExplanation = {
  ...{ namespace: "convoy", policy: "webhooks", wanted: HASH },
  proxy: { pod: "webhooks-egress-a", node: "node-1", version: "0.1.0", hash: HASH },
  explanation: {
    ...{ target: "internal.example:443", verdict: "deny", code: "address", reason: WHY },
    addresses: [{ address: "10.1.2.3", class: "private", verdict: "out", reason: WHY }],
    phrase: `egress-denied: ${WHY}; policy convoy/webhooks`,
  },
  sources: [
    {
      ...{ way: "ipv4", verified: true, expected: ["203.0.113.10"], observed: ["203.0.113.10"] },
      ...{ provenAt: null, checkedAt: null, error: null },
    },
  ],
  others: [{ pod: "webhooks-egress-b", hash: OTHER }],
};

test("an explanation names the proxy, its hash and the proxies with another one", () => {
  assertShown(renderExplanation(live, plain));
  const alone = renderExplanation({ ...live, wanted: OTHER, others: [] }, plain);
  assert.match(alone, /others {3}no other ready proxy; the operator distributes sha256:77aa00bb11cc/);
  const silent = renderExplanation({ ...live, others: [{ pod: "x", hash: null }] }, plain);
  assert.match(silent, /others {3}no answer from x/);
});

test("each echo server of a round has its own result", () => {
  const proof = { way: "ipv4", verified: true, expected: ["192.0.2.1"], observed: ["192.0.2.1"], error: null };
  const times = { provenAt: null, checkedAt: null };
  const saw = (error: string | null, observed: string[]) =>
    echoesOf(["http://a/", "http://b/"], { ...proof, ...times, error, observed }).map(({ saw }) => saw);
  assert.deepEqual(saw(null, ["192.0.2.1"]), ["192.0.2.1", "192.0.2.1"]);
  assert.deepEqual(saw("http://b/: no answer", ["192.0.2.1"]), ["192.0.2.1", null]);
  assert.deepEqual(saw("http://a/ saw 192.0.2.9", ["192.0.2.9"]), ["192.0.2.9", null]);
  assert.deepEqual(saw("http://a/: x; http://b/: y", ["192.0.2.1"]), [null, null]);
});

test("checks are those of the page", () => {
  const check: CheckedPath = {
    ...{ pod: "webhooks-egress-a", path: "ipv4", verified: true, fresh: true, expected: ["203.0.113.10"] },
    ...{ echoes: [{ url: "https://echo.example/", saw: "203.0.113.10" }], error: null },
  };
  assertShown(renderChecks([check], plain));
});

const METRICS = (requests: number, denied: number) => `# HELP outrider_proxy_requests_total Finished
outrider_proxy_requests_total{kind="connect",verdict="allow",code="ok"} ${requests}
outrider_proxy_requests_total{kind="connect",verdict="deny",code="address"} ${denied}
outrider_proxy_active_tunnels 3
outrider_proxy_connections 5
outrider_proxy_bytes_total{direction="up"} 1000
outrider_proxy_bytes_total{direction="down"} 2000
`;

test("rates follow from two readings, and a restart counts from zero", () => {
  const [first, second] = [countsOf(METRICS(10, 2)), countsOf(METRICS(30, 6))];
  assert.deepEqual(ratesOf(first, second, 2), { requests: 12, refusals: 2, bytes: 0 });
  assert.deepEqual(ratesOf(second, first, 2), { requests: 6, refusals: 1, bytes: 0 });
  assert.throws(() => countsOf("nothing"), /no outrider_proxy_active_tunnels/);
});

test("top is that of the page", () => {
  const counts = countsOf(METRICS(30, 6));
  const row = { node: "node-1", error: null, counts, rates: ratesOf(countsOf(METRICS(10, 2)), counts, 2) };
  const silent = {
    pod: "webhooks-egress-b",
    node: "node-2",
    counts: null,
    rates: null,
    error: "no answer within 10000 ms",
  };
  assertShown(renderTop([{ pod: "webhooks-egress-a", ...row }, silent], plain));
});

test("top of many proxies has only the sums of the reasons", () => {
  const row = { node: null, error: null, counts: countsOf(METRICS(30, 6)), rates: null };
  const lines = renderTop(
    Array.from({ length: 20 }, (_, i) => ({ pod: `webhooks-egress-${i}`, ...row })),
    plain,
  ).split("\n");
  assert.deepEqual(lines.slice(-3), [
    "REFUSED BECAUSE   ALL",
    "address           120",
    "-o json has the counts of each proxy",
  ]);
});

const HOSTILE = "\x1b[2J\x07\u202eevil\n\u009b31m\u{1f600}";

test("every text of the cluster is printable ASCII", () => {
  const named = { ...policy.metadata, name: HOSTILE, namespace: HOSTILE };
  const status = {
    ...policy.status,
    conditions: [condition("Accepted", "False", HOSTILE, HOSTILE)],
    staticIPs: [{ address: HOSTILE, state: HOSTILE, node: HOSTILE }],
  };
  const hostile = viewOf({ ...objects, policy: { ...policy, metadata: named, status } as unknown as EgressPolicy });
  hostile.proxies = [
    {
      ...{
        pod: HOSTILE,
        node: HOSTILE,
        ready: false,
        address: HOSTILE,
        image: HOSTILE,
        version: null,
        hash: HOSTILE,
        problem: HOSTILE,
      },
    },
  ];
  hostile.pods = [{ pod: HOSTILE, state: "missed", client: HOSTILE, reason: HOSTILE }];
  hostile.events = [{ type: HOSTILE, reason: HOSTILE, message: HOSTILE, count: 1, last: null }];
  hostile.hints = [HOSTILE];
  const { explanation } = live;
  const answer = { ...explanation, target: HOSTILE, reason: HOSTILE, phrase: HOSTILE, client: HOSTILE };
  const texts = [
    renderFleet(hostile, NOW, plain),
    renderList([hostile, hostile], { all: true, wide: true, now: NOW }, plain),
    renderExplanation({ ...live, explanation: answer, proxy: { ...live.proxy, version: HOSTILE } }, plain),
    renderChecks(
      [
        {
          pod: HOSTILE,
          path: HOSTILE,
          verified: false,
          fresh: true,
          expected: [HOSTILE],
          echoes: [{ url: HOSTILE, saw: HOSTILE }],
          error: HOSTILE,
        },
      ],
      plain,
    ),
    renderTop(
      [
        {
          pod: HOSTILE,
          node: HOSTILE,
          counts: { ...countsOf(METRICS(1, 1)), refusals: new Map([[HOSTILE, 1]]) },
          rates: null,
          error: HOSTILE,
        },
      ],
      plain,
    ),
    safeJson({ [HOSTILE]: HOSTILE }),
  ];
  for (const text of texts) {
    assert.match(text, /^[ -~\n]*$/);
    assert.match(text, /\\u001b/);
  }
  assert.deepEqual(JSON.parse(texts.at(-1)!), { [HOSTILE]: HOSTILE });
});

test("colours need a terminal and the consent of the environment", () => {
  assert.equal(paintFor(true, {})("x", "red"), "\x1b[31mx\x1b[0m");
  for (const [isTerminal, env] of [
    [false, {}],
    [true, { NO_COLOR: "1" }],
    [true, { TERM: "dumb" }],
  ] as const) {
    assert.equal(paintFor(isTerminal, env)("x", "red"), "x");
  }
  assert.deepEqual(
    table(
      [
        ["A", "B"],
        [{ text: "x", colour: "red" }, ""],
      ],
      paintFor(true, {}),
    ),
    ["A   B", "\x1b[31mx\x1b[0m   -"],
  );
});

test("ages are as short as those of kubectl", () => {
  assert.equal(age("2026-11-27T11:59:30Z", NOW), "30s");
  assert.equal(age("2026-11-27T11:50:00Z", NOW), "10m");
  assert.equal(age("2026-11-20T12:00:00Z", NOW), "7d");
  assert.equal(age(null, NOW), "-");
  assert.equal(safe("x".repeat(3), 2), "xx...");
});

test("a missing right is named with its verb and resource", () => {
  const text =
    'GET /x: 403 Forbidden: egresspolicies.egress.outrider.dev is forbidden: User "u" cannot list resource "egresspolicies" in API group "egress.outrider.dev" in the namespace "convoy"';
  assert.equal(
    (failureOf(new ApiError(403, "Forbidden", text)) as Error).message,
    'missing right: list egresspolicies.egress.outrider.dev in the namespace "convoy" (docs/kubectl.md lists the roles)',
  );
});

test("an unknown policy names the nearest one, or those that exist", () => {
  assert.match(unknownPolicy("webhoks", "convoy", ["webhooks"]).message, /did you mean webhooks\?$/);
  assert.match(unknownPolicy("other", "convoy", ["webhooks"]).message, /it has webhooks$/);
  assert.match(unknownPolicy("other", "convoy", []).message, /has no policy; set -n$/);
});
