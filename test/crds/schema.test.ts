import assert from "node:assert/strict";
import { test } from "node:test";
import { outdated } from "../../crds/generate.ts";
import { readSchema, type Schema, walk } from "../../crds/schema.ts";
import { MAX_CLIENTS, MAX_HOST_SETS } from "../../proxy/policy/clients.ts";
import { MAX_ECHO_URLS, MAX_STATIC_IPS } from "../../proxy/policy/document.ts";
import { readManifest } from "../../proxy/policy/policy-file.ts";
import { MAX_ENTRIES, MAX_PORTS, MAX_RULES } from "../../proxy/policy/rules.ts";
import { EVERYTHING } from "./everything.ts";

const schema = readSchema();
const nodes = [...walk(schema)];
const node = (path: string): Schema => {
  const found = nodes.find(([at]) => at === path);
  assert.ok(found !== undefined, path);
  return found[1];
};
const policy = (spec: Record<string, unknown>) => ({
  apiVersion: "egress.outrider.dev/v1alpha1",
  kind: "EgressPolicy",
  metadata: { name: "everything", namespace: "convoy" },
  spec,
});

test("types and reference are up to date", () => {
  assert.deepEqual(outdated(), [], "run make generate");
});

test("every field has a description", () => {
  for (const [path, { description }] of nodes) {
    if (path === "metadata" || path.endsWith("[]") || path.endsWith("{}")) continue;
    assert.ok((description ?? "").length > 3, path);
  }
});

test("every list, map, string and number has a limit", () => {
  for (const [path, n] of nodes) {
    if (["apiVersion", "kind"].includes(path) || n.enum !== undefined || n.format === "date-time") continue;
    if (n.type === "array") assert.ok(n.maxItems !== undefined && n["x-kubernetes-list-type"] !== undefined, path);
    if (n.type === "string") assert.ok(n.maxLength !== undefined, path);
    if (n.additionalProperties !== undefined) assert.ok(n.maxProperties !== undefined, path);
    // 64-bit fields are those of Kubernetes' own types.
    if (n.type === "integer" && n.format !== "int64")
      assert.ok(n.minimum !== undefined && n.maximum !== undefined, path);
  }
});

test("every pattern of the spec begins with its meaning in words", () => {
  for (const [path, { pattern }] of walk(node("spec"), "spec")) {
    if (pattern !== undefined) assert.match(pattern, /^\^\(\?:[a-z][\w .,:;/-]+\)\{0\}\(?/, path);
  }
});

test("rules of ports in long lists compare no type with ==", () => {
  // Kubernetes 1.33 estimates it as a comparison of 3 MiB and rejects the CRD.
  const rules = ["spec.ports[]", "spec.allow[].ports[]", "spec.deny[].ports[]"].flatMap((at) => {
    const { "x-kubernetes-validations": found } = [...walk(node("spec"), "spec")].find(([path]) => path === at)![1];
    return found!.map(({ rule }) => rule);
  });
  assert.equal(rules.length, 3);
  for (const rule of rules) assert.doesNotMatch(rule, /type\(self\) [!=]=/);
});

test("a policy that no operator has seen is not current", () => {
  assert.deepEqual(node("status").default, { observedGeneration: -1 });
});

test("lists are atomic, except addresses, clients and sets", () => {
  for (const path of [
    "allow",
    "deny",
    "ports",
    ...["hosts", "except", "cidrs", "ports"].map((key) => `allow[].${key}`),
  ]) {
    assert.equal(node(`spec.${path}`)["x-kubernetes-list-type"], "atomic", path);
  }
  assert.deepEqual(node("spec.staticIPs")["x-kubernetes-list-map-keys"], ["address"]);
  for (const path of ["clients", "hostSets"]) {
    assert.deepEqual(node(`spec.${path}`)["x-kubernetes-list-map-keys"], ["name"], path);
    // An empty list would give the owner of a removed last client the rules of the policy.
    assert.equal(node(`spec.${path}`).minItems, 1, path);
  }
});

test("no list is longer than the policy engine accepts", () => {
  const rows: [path: string, max: number][] = [
    ["spec.ports", MAX_PORTS],
    ["spec.staticIPs", MAX_STATIC_IPS],
    ["spec.verification.echoURLs", MAX_ECHO_URLS],
    ["spec.hostSets", MAX_HOST_SETS],
    ["spec.hostSets[].hosts", MAX_ENTRIES],
    ["spec.clients", MAX_CLIENTS],
    ["spec.clients[].ports", MAX_PORTS],
    ...["allow", "deny", ...["allow", "deny", "upstreamProxies"].map((key) => `clients[].${key}`)].flatMap(
      (list): [string, number][] => [
        [`spec.${list}`, MAX_RULES],
        [`spec.${list}[].ports`, MAX_PORTS],
        ...["hosts", "except", "cidrs"].map((key): [string, number] => [`spec.${list}[].${key}`, MAX_ENTRIES]),
      ],
    ),
  ];
  for (const [path, max] of rows) assert.ok(node(path).maxItems! <= max, path);
});

test("allow and deny rules differ in descriptions only", () => {
  const plain = (n: Schema) => JSON.stringify(n, (key, value) => (key === "description" ? undefined : value));
  assert.equal(plain(node("spec.allow[]")), plain(node("spec.deny[]")));
  for (const key of ["deny", "upstreamProxies"]) {
    assert.equal(plain(node("spec.clients[].allow[]")), plain(node(`spec.clients[].${key}[]`)), key);
  }
});

test("rules of clients have the fields and the patterns of the policy's", () => {
  const patterns = (path: string) =>
    [...walk(node(path))].map(([at, { pattern }]): (string | undefined)[] => (at === "cidrs[]" ? [at] : [at, pattern]));
  assert.deepEqual(patterns("spec.clients[].allow[]"), patterns("spec.allow[]"));
});

test("fields of clients have no defaults, which would look like fields without effect", () => {
  for (const [path, { default: value }] of walk(node("spec.clients"), "spec.clients")) {
    assert.equal(value, undefined, path);
  }
});

/** The paths of a value, as the schema's walk names them. */
function pathsOf(value: unknown, n: Schema, path: string): string[] {
  if (n.items !== undefined) return (value as unknown[]).flatMap((item) => pathsOf(item, n.items!, `${path}[]`));
  if (n.properties === undefined) return [];
  return Object.entries(value as Record<string, unknown>).flatMap(([key, inner]) => {
    const child = n.properties?.[key];
    assert.ok(child !== undefined, `${path}.${key} is no field of the schema`);
    return [`${path}.${key}`, ...pathsOf(inner, child, `${path}.${key}`)];
  });
}

test("reads every field and warns about those of the operator", () => {
  const seen = new Set(EVERYTHING.flatMap((spec) => pathsOf(spec, node("spec"), "spec")));
  for (const [path] of walk(node("spec"), "spec")) {
    if (!path.endsWith("[]") && !path.endsWith("{}")) assert.ok(seen.has(path), `no example of ${path}`);
  }
  for (const spec of EVERYTHING) {
    const { document, warnings, needs } = readManifest(policy(spec));
    assert.equal(document.policy, "convoy/everything");
    assert.equal(document.proxy.denyStatus, 502);
    assert.ok(needs.password);
    for (const key of ["preset", "injection", "nat", "networkPolicy", "proxy.resources"]) {
      assert.ok(warnings.includes(`spec.${key} is for the operator only: the proxy ignores it`), key);
    }
  }
});

test("reads an object with the blocked ranges of the operator", () => {
  const object = {
    ...policy({ deny: [{ hosts: ["x.example"] }] }),
    status: { observedGeneration: 1 },
  };
  const { document } = readManifest(object, ["10.244.0.0/16"]);
  assert.deepEqual(document.blockedCIDRs, ["10.244.0.0/16"]);
  assert.deepEqual(document.deny, [{ hosts: ["x.example"] }]);
  assert.throws(() => readManifest(object, ["10.244.0.1/16"]), /blockedCIDRs\[0\]: .*host bits set/);
  assert.throws(() => readManifest(null), /must be a mapping/);
});

test("verifies more often if an address moves with its proxy", () => {
  const verification = { echoURLs: ["https://echo.example.net/ip"] };
  const interval = (provider: string, more = {}) =>
    readManifest(policy({ nat: { provider }, verification: { ...verification, ...more } })).document.verification
      ?.intervalSeconds;
  assert.equal(interval("External"), 30);
  assert.equal(interval("KubeVIP"), 5);
  assert.equal(interval("KubeVIP", { intervalSeconds: 20 }), 20);
});
