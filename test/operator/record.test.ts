import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { gunzipSync, gzipSync } from "node:zlib";
import { KubeConfig } from "@kubernetes/client-node";
import type { EgressPolicy } from "../../operator/api/egresspolicy.ts";
import type { ConfigMap } from "../../operator/api/objects.ts";
import { Client } from "../../operator/kube/client.ts";
import { EventRecorder } from "../../operator/kube/events.ts";
import type { KubeObject } from "../../operator/kube/resource.ts";
import { StatusWriter } from "../../operator/reconcile/writes/status-writer.ts";
import { makeLog } from "../../proxy/cli/log.ts";
import { BOOT, type ControlPlane, controlPlaneMissing, startControlPlane } from "../cluster/control-plane.ts";
import { startFaultProxy } from "../cluster/fault-proxy.ts";
import {
  applyPolicy,
  INVALID,
  install,
  LEASE,
  makeNamespace,
  type Operator,
  policyPath,
  startOperator,
  untilCondition,
} from "./operator.ts";

/**
 * What the operator remembers of a policy, on a real API server. No proxy answers here, so each pod counts as a proxy
 * that may still use an address which the spec no longer has.
 */

const skip = controlPlaneMissing({ kwokNodes: 2 }) ?? false;
/** Restarts of the operator on a busy machine. */
const SLOW = { skip, timeout: 240_000 };
const NS = "convoy";
const RECORDS = "/api/v1/namespaces/outrider-system/configmaps";
const OPERATOR = "system:serviceaccount:outrider-system:outrider-operator";
const [A, B, C, FORGED] = ["203.0.113.1", "203.0.113.2", "203.0.113.3", "203.0.113.66"];
/** Longer than a write takes, and shorter than the operator waits for its events. */
const MOMENT_MS = 1000;

let plane: ControlPlane;
let operator: Operator;

const start = (options: Parameters<typeof startOperator>[1] = {}) =>
  startOperator(plane, { ...options, args: ["--scrape-seconds=1", ...(options.args ?? [])] });

before(async () => {
  if (skip) return;
  plane = await startControlPlane({ kwokNodes: 2, audit: true, install });
  await makeNamespace(plane, NS);
  operator = await start();
  await operator.untilLeading();
}, BOOT);
after(async () => {
  if (skip) return;
  await operator.stop("SIGKILL");
  await plane.stop();
});

async function restart(whileDown: () => Promise<void>, options: Parameters<typeof startOperator>[1] = {}) {
  await operator.stop();
  try {
    await whileDown();
  } finally {
    operator = await start(options);
    await operator.untilLeading();
  }
}

const configMap = (name: string, namespace = NS) => `/api/v1/namespaces/${namespace}/configmaps/${name}`;
const listOf = (policy: string) => configMap(`${policy}-egress-ips`);
const documentOf = (policy: string) => configMap(`${policy}-egress-policy`);
const recordPath = ({ metadata }: KubeObject) => `${RECORDS}/egresspolicy-${metadata.uid}`;
const get = async (name: string) => (await plane.get<EgressPolicy>(policyPath(NS, name)))!;
const pack = (spec: object) => gzipSync(JSON.stringify(spec)).toString("base64");
const addresses = (...list: string[]) => ({ staticIPs: list.map((address) => ({ address })) });
const denied = (found: ConfigMap | undefined) =>
  (JSON.parse(found?.data?.["policy.json"] ?? "{}") as { deny?: { hosts: string[] }[] }).deny?.[0]?.hosts[0];

/** Waits until the published list has these addresses, of which those of `retiring` are retiring. */
async function untilPublished(policy: string, all: string[], retiring: string[] = []): Promise<void> {
  const wanted = (found: ConfigMap | undefined) => {
    const list = JSON.parse(found?.data?.["ips.json"] ?? "{}") as { ipv4?: string[]; retiring?: string[] };
    return (
      found?.data?.["ips.txt"] === all.map((address) => `${address}\n`).join("") &&
      list.ipv4?.join() === all.join() &&
      list.retiring?.join() === retiring.join()
    );
  };
  await plane.until<ConfigMap>(listOf(policy), wanted, `${all} published, ${retiring || "none"} retiring`);
}

const untilDenied = (policy: string, host: string) =>
  plane.until<ConfigMap>(documentOf(policy), (found) => denied(found) === host, `the document denies ${host}`);

/** A policy with proxies that may still use {@link B}, which its spec no longer has. */
async function withRetiring(name: string): Promise<void> {
  await applyPolicy(plane, NS, name, addresses(A, B));
  await untilCondition(plane, NS, name, "ProxyAvailable", "True");
  await applyPolicy(plane, NS, name, addresses(A));
  await untilPublished(name, [A, B], [B]);
}

/** A policy whose newest spec is rejected, and whose last accepted one denies `good.example`. */
async function withRejected(name: string): Promise<void> {
  await applyPolicy(plane, NS, name, { deny: [{ hosts: ["good.example"] }] });
  await untilCondition(plane, NS, name, "Programmed", "True");
  await applyPolicy(plane, NS, name, INVALID);
  await untilCondition(plane, NS, name, "Accepted", "False", "Invalid");
}

const forgeList = (policy: string) => {
  const list = { ipv4: [A, FORGED], ipv6: [], cidrs: [], pending: [], retiring: [], updatedAt: "" };
  return plane.patch(listOf(policy), { data: { "ips.json": JSON.stringify(list), "ips.txt": `${FORGED}\n` } });
};

test("restores the published list with its retiring address", SLOW, async (t) => {
  await withRetiring("retiring");
  await t.test("after a deletion", async () => {
    await plane.delete(listOf("retiring"));
    await untilPublished("retiring", [A, B], [B]);
  });
  await t.test("after an edit", async () => {
    await forgeList("retiring");
    await untilPublished("retiring", [A, B], [B]);
  });
  await t.test("after a deletion while the operator is down", async () => {
    await restart(() => plane.delete(listOf("retiring")));
    await untilPublished("retiring", [A, B], [B]);
  });
  await t.test("after an edit while the operator is down", async () => {
    await restart(() => forgeList("retiring"));
    await untilPublished("retiring", [A, B], [B]);
  });
});

test("keeps the last accepted spec", SLOW, async (t) => {
  await withRejected("rejected");
  await t.test("after a deletion of the document while the operator is down", async () => {
    await restart(() => plane.delete(documentOf("rejected")));
    await untilDenied("rejected", "good.example");
  });
  await t.test("after another spec was stored with the document", async () => {
    const forged = { ...(await get("rejected")).spec, allow: undefined, deny: [{ hosts: ["forged.example"] }] };
    await restart(async () => {
      await plane.patch(documentOf("rejected"), {
        data: { "policy.json": "{}" },
        binaryData: { "spec.json.gz": pack(forged) },
      });
    });
    await untilDenied("rejected", "good.example");
  });
});

test("restores a document whose annotation names another one", SLOW, async () => {
  await applyPolicy(plane, NS, "hashed", { deny: [{ hosts: ["good.example"] }] });
  await untilCondition(plane, NS, "hashed", "Programmed", "True");
  const { data, metadata } = (await plane.get<ConfigMap>(documentOf("hashed")))!;
  const hash = "egress.outrider.dev/policy-hash";
  const forgedData = { "policy.json": data!["policy.json"]!.replace("good.example", "evil.example") };
  for (const edit of [{ data: forgedData }, { metadata: { annotations: { [hash]: "sha256:0" } } }]) {
    await plane.patch(documentOf("hashed"), edit);
    const whole = (found: ConfigMap | undefined) =>
      found?.data?.["policy.json"] === data!["policy.json"] &&
      found!.metadata.annotations?.[hash] === metadata.annotations![hash];
    await plane.until<ConfigMap>(documentOf("hashed"), whole, "document and hash agree", 5000);
  }
});

test("a record is written once, restored, and deleted with its policy", SLOW, async (t) => {
  await withRetiring("recorded");
  const policy = await get("recorded");
  const path = recordPath(policy);
  const record = (await plane.get<ConfigMap>(path))!;
  await t.test("has the accepted spec and the published list", async () => {
    const spec = JSON.parse(
      gunzipSync(Buffer.from(record.binaryData!["spec.json.gz"]!, "base64")).toString(),
    ) as object;
    assert.deepEqual(spec, policy.spec);
    assert.equal(record.data!["ips.json"], (await plane.get<ConfigMap>(listOf("recorded")))!.data!["ips.json"]);
    assert.deepEqual(record.metadata.annotations, { "egress.outrider.dev/record-of": `${NS}/recorded` });
    assert.equal((await plane.get<ConfigMap>(documentOf("recorded")))!.binaryData, undefined);
  });
  await t.test("is written before the list that it records", () => {
    const writes = plane.writes(OPERATOR).map(({ path: written }) => written.split("?")[0]!);
    const first = (part: string) => writes.indexOf(part);
    const created = writes.indexOf(RECORDS);
    assert.ok(created >= 0 && created < first(listOf("recorded")), writes.join("\n"));
    assert.ok(writes.lastIndexOf(path) < writes.lastIndexOf(listOf("recorded")), writes.join("\n"));
  });
  await t.test("does not change without a change of its content", async () => {
    await restart(async () => undefined, { args: ["--resync-seconds=5"] });
    await applyPolicy(plane, NS, "another", {});
    await untilCondition(plane, NS, "another", "Programmed", "True");
    assert.equal((await plane.get<ConfigMap>(path))!.metadata.resourceVersion, record.metadata.resourceVersion);
  });
  await t.test("is restored after a deletion", async () => {
    await plane.delete(path);
    await plane.until<ConfigMap>(
      path,
      (found) => found?.data?.["ips.json"] === record.data!["ips.json"],
      "the record is restored",
    );
    await untilPublished("recorded", [A, B], [B]);
  });
  await t.test("is restored after its labels were removed", async () => {
    await plane.patch(path, { metadata: { labels: null } });
    await plane.until<ConfigMap>(path, (found) => found?.metadata.labels !== undefined, "the labels are restored");
  });
  await t.test("is deleted with its policy", async () => {
    await plane.delete(policyPath(NS, "recorded"));
    await plane.until(path, (found) => found === undefined, "the record is deleted");
  });
});

test("restores a record whose deletion no watch reported", SLOW, async (t) => {
  await withRetiring("unseen");
  const way = await startFaultProxy(plane);
  t.after(() => way.close());
  await restart(async () => undefined, { server: way.url });
  way.swallow = (path, event) => path.startsWith(`${RECORDS}?`) && event.includes('"type":"DELETED"');
  const path = recordPath(await get("unseen"));
  await plane.delete(path);
  await applyPolicy(plane, NS, "unseen", { ...addresses(A), deny: [{ hosts: ["next.example"] }] });
  // Other retries would end at the next comparison, after minutes.
  await plane.until<ConfigMap>(path, (found) => found !== undefined, "the record is restored", 10_000);
  await untilDenied("unseen", "next.example");
  await untilPublished("unseen", [A, B], [B]);
  await restart(async () => undefined);
});

test("a new policy of the same name gets a record of its own", SLOW, async () => {
  await withRetiring("again");
  const former = recordPath(await get("again"));
  await restart(async () => {
    await plane.delete(policyPath(NS, "again"));
    await applyPolicy(plane, NS, "again", addresses(C));
  });
  await plane.until(former, (found) => found === undefined, "the former record is deleted");
  await untilPublished("again", [C]);
  const record = (await plane.get<ConfigMap>(recordPath(await get("again"))))!;
  assert.deepEqual((JSON.parse(record.data!["ips.json"]!) as { ipv4: string[] }).ipv4, [C]);
});

test("deletes the records of policies that were deleted while it was down", SLOW, async () => {
  await applyPolicy(plane, NS, "orphan", {});
  await makeNamespace(plane, "elsewhere");
  await applyPolicy(plane, "elsewhere", "orphan", {});
  await untilCondition(plane, NS, "orphan", "Programmed", "True");
  const far = recordPath(await untilCondition(plane, "elsewhere", "orphan", "Programmed", "True"));
  const near = recordPath(await get("orphan"));
  await restart(
    async () => {
      await plane.delete(policyPath(NS, "orphan"));
      await plane.delete(policyPath("elsewhere", "orphan"));
    },
    { args: [`--namespaces=${NS}`] },
  );
  await plane.until(near, (found) => found === undefined, "the record is deleted");
  // This operator does not watch that namespace, so it does not know whether the policy exists.
  assert.ok(await plane.get(far));
  await restart(async () => undefined);
  await plane.until(far, (found) => found === undefined, "the other record is deleted");
});

test("a rejected first spec leaves nothing that a forged ConfigMap replaces", SLOW, async () => {
  await applyPolicy(plane, NS, "first", INVALID);
  const policy = await untilCondition(plane, NS, "first", "Accepted", "False", "Invalid");
  await restart(async () => {
    const { name, uid } = policy.metadata;
    const owner = { apiVersion: policy.apiVersion, kind: policy.kind, name, uid, controller: true };
    const labels = {
      "app.kubernetes.io/name": "outrider-proxy",
      "app.kubernetes.io/managed-by": "outrider",
      "egress.outrider.dev/policy": name,
    };
    await plane.apply(documentOf("first"), {
      ...{ apiVersion: "v1", kind: "ConfigMap" },
      metadata: { name: "first-egress-policy", labels, ownerReferences: [owner] },
      binaryData: { "spec.json.gz": pack({ ...policy.spec, allow: undefined }) },
    });
  });
  await applyPolicy(plane, NS, "later", {});
  await untilCondition(plane, NS, "later", "Programmed", "True");
  assert.equal(await plane.get(`/apis/apps/v1/namespaces/${NS}/deployments/first-egress`), undefined);
});

test("takes both from the ConfigMaps of a former version, once", SLOW, async (t) => {
  await withRetiring("former");
  await applyPolicy(plane, NS, "former", { ...addresses(A), ...INVALID });
  const policy = await untilCondition(plane, NS, "former", "Accepted", "False", "Invalid");
  const record = (await plane.get<ConfigMap>(recordPath(policy)))!;
  await restart(async () => {
    await plane.delete(recordPath(policy));
    await plane.patch(`${policyPath(NS, "former")}/status`, { status: { recorded: null } });
    // As the former version stored it: the spec beside the document, and another stamp.
    const { metadata, data } = (await plane.get<ConfigMap>(documentOf("former")))!;
    const { name, labels, ownerReferences, annotations } = metadata;
    const stamped = { ...annotations, "egress.outrider.dev/applied": "0123456789abcdef" };
    await plane.apply(
      documentOf("former"),
      {
        ...{ apiVersion: "v1", kind: "ConfigMap", data, binaryData: record.binaryData },
        metadata: { name, labels, ownerReferences, annotations: stamped },
      },
      "outrider",
    );
  });
  const found = await plane.until<ConfigMap>(recordPath(policy), (one) => one !== undefined, "the record is written");
  const listIn = ({ data }: ConfigMap) => JSON.parse(data!["ips.json"]!) as object;
  // That version writes no changes: those of the ConfigMap are a user's.
  assert.deepEqual([listIn(found!), found!.binaryData], [{ ...listIn(record), changes: [] }, record.binaryData]);
  await untilPublished("former", [A, B], [B]);
  await plane.until<EgressPolicy>(policyPath(NS, "former"), (one) => one?.status?.recorded === true, "recorded");
  const kept = (spec: string) =>
    plane.until<ConfigMap>(
      documentOf("former"),
      ({ metadata, binaryData } = {} as ConfigMap) =>
        metadata.annotations?.["egress.outrider.dev/applied"] !== "0123456789abcdef" &&
        binaryData?.["spec.json.gz"] === spec,
      "the document has the spec in force beside it",
    );
  await t.test("keeps the spec in force for webhooks of the former version", async () => {
    await kept(record.binaryData!["spec.json.gz"]!);
    await applyPolicy(plane, NS, "former", { ...addresses(A), deny: [{ hosts: ["next.example"] }] });
    await untilDenied("former", "next.example");
    await kept((await plane.get<ConfigMap>(recordPath(policy)))!.binaryData!["spec.json.gz"]!);
  });
});

test("a missing record is not taken from a forged ConfigMap", SLOW, async () => {
  await withRejected("missing");
  const policy = await plane.until<EgressPolicy>(
    policyPath(NS, "missing"),
    (one) => one?.status?.recorded === true,
    "recorded",
  );
  const forged = { ...policy!.spec, allow: undefined, deny: [{ hosts: ["forged.example"] }] };
  await restart(async () => {
    await plane.delete(recordPath(policy!));
    await plane.patch(documentOf("missing"), { binaryData: { "spec.json.gz": pack(forged) } });
    await forgeList("missing");
  });
  const path = recordPath(policy!);
  const found = await plane.until<ConfigMap>(path, (one) => one !== undefined, "the record is written");
  assert.deepEqual([found!.data, found!.binaryData], [undefined, undefined]);
  assert.equal(denied(await plane.get<ConfigMap>(documentOf("missing"))), "good.example");
  assert.match(operator.log(), /the record of this policy is missing/);
  await applyPolicy(plane, NS, "missing", { ...addresses(A), deny: [{ hosts: ["next.example"] }] });
  await untilDenied("missing", "next.example");
  await untilPublished("missing", [A]);
});

type Event = KubeObject & { reason: string; message: string; count: number; involvedObject: { name: string } };
async function eventsOf(policy: string, reason: string): Promise<Event[]> {
  const { items } = (await plane.get<{ items: Event[] }>(`/api/v1/namespaces/${NS}/events`))!;
  return items.filter((event) => event.involvedObject.name === policy && event.reason === reason);
}

test("events of a write that is rejected are not repeated", SLOW, async (t) => {
  await applyPolicy(plane, NS, "repeated", addresses(A));
  await untilPublished("repeated", [A]);
  const policy = await get("repeated");
  const way = await startFaultProxy(plane);
  t.after(() => way.close());
  await restart(async () => undefined, { server: way.url });
  const paths = { record: recordPath(policy), status: `${policyPath(NS, "repeated")}/status` };
  const forbidden = { status: 403, body: JSON.stringify({ kind: "Status", reason: "Forbidden", message: "a quota" }) };
  const attempts = (path: string) => way.count("PATCH", path);
  /** Rejects a write until it was tried several times. Each change of the policy is another try. */
  const rejected = async (path: string, spec: object) => {
    way.refuse = (method, url) => (method === "PATCH" && url.startsWith(path) ? forbidden : undefined);
    const before = attempts(path);
    await applyPolicy(plane, NS, "repeated", spec);
    for (let edit = 0; attempts(path) < before + 4; edit++) {
      assert.ok(edit < 60, `${attempts(path)} attempts`);
      await plane.patch(policyPath(NS, "repeated"), { metadata: { annotations: { edit: `${edit}` } } });
      await sleep(500);
    }
    way.refuse = undefined;
  };
  const countOf = async (reason: string) =>
    (await eventsOf("repeated", reason)).reduce((sum, event) => sum + event.count, 0);
  await t.test("AddressAddedWithoutNotice, if the record is rejected", async () => {
    await rejected(paths.record, addresses(A, C));
    await untilPublished("repeated", [A, C]);
    assert.equal(await countOf("AddressAddedWithoutNotice"), 1);
  });
  await t.test("Invalid, if the status is rejected", async () => {
    await rejected(paths.status, INVALID);
    await untilCondition(plane, NS, "repeated", "Accepted", "False", "Invalid");
    assert.equal(await countOf("Invalid"), 1);
  });
  await t.test("a later event with the same text is reported", async () => {
    await applyPolicy(plane, NS, "repeated", addresses(A, C));
    await untilCondition(plane, NS, "repeated", "Accepted", "True");
    await applyPolicy(plane, NS, "repeated", INVALID);
    await untilCondition(plane, NS, "repeated", "Accepted", "False", "Invalid");
    assert.equal(await countOf("Invalid"), 2);
  });
  await restart(async () => undefined);
});

/** A writer of its own, while no operator runs. */
function statusWriter(): { writer: StatusWriter; stop(): Promise<void> } {
  const kube = new KubeConfig();
  kube.loadFromFile(plane.userConfig());
  const client = new Client(kube);
  const events = new EventRecorder({ client, component: "test", instance: "i", log: makeLog("silent") });
  return {
    writer: new StatusWriter(client, events),
    stop: async () => {
      await events.stop();
      client.close();
    },
  };
}

test("a status that the cache does not have yet repeats no event", SLOW, async () => {
  await applyPolicy(plane, NS, "behind", addresses(A));
  await untilCondition(plane, NS, "behind", "Accepted", "True");
  await restart(async () => {
    const policy = await get("behind");
    const { writer, stop } = statusWriter();
    const accepted = policy.status!;
    const invalid = { status: "False", reason: "Invalid" } as const;
    const conditions = accepted.conditions!.map((one) => (one.type === "Accepted" ? { ...one, ...invalid } : one));
    const rejected = { ...accepted, conditions };
    await writer.write(policy, rejected);
    await writer.write(policy, rejected);
    const count = async () => (await eventsOf("behind", "Invalid")).reduce((sum, event) => sum + event.count, 0);
    assert.equal(await count(), 1);
    await writer.write(await get("behind"), accepted);
    await writer.write(await get("behind"), rejected);
    assert.equal(await count(), 2);
    await stop();
  });
});

test("the status of a deleted policy is not written to the one that replaces it", SLOW, async () => {
  await applyPolicy(plane, NS, "replaced", addresses(A));
  await untilCondition(plane, NS, "replaced", "Accepted", "True");
  await restart(async () => {
    const former = await get("replaced");
    const { writer, stop } = statusWriter();
    const path = policyPath(NS, "replaced");
    await plane.delete(path);
    await plane.until(path, (found) => found === undefined, "the policy is gone");
    await applyPolicy(plane, NS, "replaced", addresses(A));
    const conditions = former.status!.conditions!.map((one) => ({ ...one, message: "changed" }));
    await writer.write(former, { ...former.status!, conditions });
    assert.equal((await get("replaced")).status?.recorded, undefined);
    await stop();
  });
});

for (const [reason, name, spec, pathOf, written] of [
  [
    "AddressAddedWithoutNotice",
    "added",
    addresses(A, C),
    listOf,
    (found?: ConfigMap) => found?.data?.["ips.txt"]?.includes(C) ?? false,
  ],
  [
    "Invalid",
    "refused",
    INVALID,
    (policy: string) => policyPath(NS, policy),
    (found?: object) => JSON.stringify((found as EgressPolicy | undefined)?.status).includes('"Invalid"'),
  ],
] as const) {
  test(`a crash does not lose the event ${reason}`, SLOW, async () => {
    await applyPolicy(plane, NS, name, addresses(A));
    await untilCondition(plane, NS, name, "Accepted", "True");
    await untilPublished(name, [A]);
    await operator.stop();
    const way = await startFaultProxy(plane);
    operator = await start({ server: way.url });
    await operator.untilLeading();
    way.refuse = (method, url) => (method === "POST" && url.includes("/events") ? "silence" : undefined);
    await applyPolicy(plane, NS, name, spec);
    for (const began = Date.now(); way.count("POST", "/events") === 0; await sleep(20)) {
      assert.ok(Date.now() - began < 20_000, "no event was sent");
    }
    // Gives an operator that does not wait for the event the time to write the change. No restart sees it afterwards.
    await plane.until<ConfigMap>(pathOf(name), written, "written", MOMENT_MS).catch(() => undefined);
    await operator.stop("SIGKILL");
    await way.close();
    await plane.delete(LEASE);
    operator = await start();
    await operator.untilLeading();
    await plane.until<ConfigMap>(pathOf(name), written, "written by the next process");
    for (const began = Date.now(); (await eventsOf(name, reason)).length === 0; await sleep(50)) {
      assert.ok(Date.now() - began < 10_000, `no event ${reason}`);
    }
    assert.equal((await eventsOf(name, reason)).length, 1);
    await plane.delete(policyPath(NS, name));
    await plane.until(documentOf(name), (found) => found === undefined, "the policy is deleted");
    await operator.stop();
    operator = await start();
    await operator.untilLeading();
  });
}
