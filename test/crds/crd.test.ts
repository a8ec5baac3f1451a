import assert from "node:assert/strict";
import { globSync, readFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { parse } from "yaml";
import { CRD_FILE, readSchema, walk } from "../../crds/schema.ts";
import { hashDocument } from "../../proxy/policy/document.ts";
import { readManifest } from "../../proxy/policy/policy-file.ts";
import { PolicyError } from "../../proxy/policy/rules.ts";
import { importAcl } from "../../proxy/tools/import.ts";
import { BOOT, type ControlPlane, controlPlaneMissing, startControlPlane } from "../cluster/control-plane.ts";
import { runOutrider } from "../harness/proxy.ts";
import { AGREEMENTS } from "./agree.ts";
import { EVERYTHING } from "./everything.ts";
import { REFUSED } from "./refused.ts";

const root = new URL("../..", import.meta.url).pathname;
const examples = globSync("crds/examples/*.yaml", { cwd: root }).sort();

/** Output of kubectl. */
interface Answer {
  status: number | null;
  stdout: string;
  stderr: string;
}

const skip = controlPlaneMissing() ?? false;
let plane: ControlPlane;
const kubectl = (args: readonly string[], stdin?: string): Promise<Answer> => plane.kubectl(args, stdin);

const policy = (name: string, spec: Record<string, unknown>) => ({
  apiVersion: "egress.outrider.dev/v1alpha1",
  kind: "EgressPolicy",
  metadata: { name, namespace: "default" },
  spec,
});
const good = (answer: Answer): string => {
  assert.equal(answer.status, 0, answer.stderr);
  return answer.stdout;
};
const read = async (name: string): Promise<Record<string, unknown> & { spec: Record<string, unknown> }> =>
  JSON.parse(good(await kubectl(["get", "egresspolicies.egress.outrider.dev", name, "-o", "json"])));
const apply = (object: object, ...args: string[]) =>
  kubectl(["apply", "--server-side", ...args, "-f", "-"], JSON.stringify(object));

/** Answers of the API server to many objects of one kubectl call. */
async function tryAll(specs: readonly Record<string, unknown>[]): Promise<{ accepted: boolean; error: string }[]> {
  const objects = specs.map((spec, i) => JSON.stringify(policy(`try-${i}`, spec)));
  const answer = await kubectl(["create", "--dry-run=server", "-o", "name", "-f", "-"], objects.join("\n---\n"));
  const accepted = new Set(answer.stdout.split("\n"));
  const errors = new Map<string, string>();
  for (const part of answer.stderr.split(/^(?=The EgressPolicy|Error from server)/m)) {
    const name = /"(try-\d+)"/.exec(part)?.[1];
    assert.ok(name !== undefined, part);
    errors.set(name, part);
  }
  return specs.map((_, i) => {
    const verdict = {
      accepted: accepted.has(`egresspolicy.egress.outrider.dev/try-${i}`),
      error: errors.get(`try-${i}`) ?? "",
    };
    assert.equal(verdict.accepted, verdict.error === "", `try-${i} is answered exactly once: ${verdict.error}`);
    return verdict;
  });
}

before(async () => {
  if (skip) return;
  plane = await startControlPlane();
  // Strict: a field that the API server does not know, such as a misspelt bound, is an error.
  const answer = await kubectl(["apply", "--server-side", "--validate=strict", "-f", CRD_FILE.pathname]);
  assert.equal(answer.stderr, "");
  good(
    await kubectl(["wait", "--for=condition=Established", "--timeout=30s", "crd/egresspolicies.egress.outrider.dev"]),
  );
}, BOOT);
after(async () => {
  if (!skip) await plane.stop();
});

test("the schema is structural and without warnings", { skip }, async () => {
  const crd = JSON.parse(good(await kubectl(["get", "crd", "egresspolicies.egress.outrider.dev", "-o", "json"])));
  const conditions = crd.status.conditions as { type: string; status: string; message: string }[];
  const bad = conditions.filter(({ type }) => type === "NonStructuralSchema" || type === "Terminating");
  assert.deepEqual(bad, []);
  assert.ok(!readFileSync(CRD_FILE, "utf8").includes("preserve-unknown-fields"));
});

for (const file of examples) {
  test(`${file} applies and is valid for proxy and operator`, { skip }, async () => {
    const checked = await runOutrider(["check", "--policy", `${root}/${file}`]);
    assert.equal(checked.status, 0, checked.stderr);
    const answer = await kubectl(["apply", "--server-side", "-f", `${root}/${file}`]);
    const name = /^egresspolicy.egress.outrider.dev\/(\S+) serverside-applied/.exec(good(answer))?.[1];
    assert.ok(name !== undefined, answer.stdout);
    assert.equal(answer.stderr, "");
    // The defaults that the API server wrote are those of the engine.
    const { document } = readManifest(await read(name));
    assert.ok(checked.stdout.includes(hashDocument(document)), checked.stdout);
  });
}

test("accepts and stores a policy with every field", { skip }, async () => {
  for (const [i, spec] of EVERYTHING.entries()) {
    const answer = await apply(policy(`everything-${i}`, spec), "--validate=strict");
    assert.equal(answer.stderr, "");
    good(answer);
    assert.deepEqual((await read(`everything-${i}`)).spec, spec);
  }
});

test("each rule rejects its errors and names the field", { skip }, async () => {
  const answers = await tryAll(REFUSED.map(({ spec }) => spec));
  for (const [i, { spec, says }] of REFUSED.entries()) {
    assert.match(answers[i]!.error, says, JSON.stringify(spec).slice(0, 200));
  }
  const said = answers.map(({ error }) => error).join("\n");
  for (const [path, node] of walk(readSchema())) {
    for (const { message } of node["x-kubernetes-validations"] ?? []) {
      assert.ok(said.includes(message), `no case for the rule at ${path}: ${message}`);
    }
  }
});

test("limits names so that derived names fit", { skip }, async () => {
  for (const name of ["a", "webhooks", `a${"-".repeat(38)}z`, "a".repeat(40), "x9"]) {
    good(await apply(policy(name, {}), "--dry-run=server"));
  }
  for (const name of ["a".repeat(41), "9a", "a.b", "a-", "1"]) {
    const answer = await apply(policy(name, {}), "--dry-run=server");
    assert.equal(answer.status, 1, name);
    assert.match(answer.stderr, /metadata\.name: .*(1 to 40 lower-case letters|lowercase RFC 1123)/s, name);
  }
});

test("sets the defaults that are equal for every policy", { skip }, async () => {
  good(await apply(policy("defaults", {})));
  assert.deepEqual((await read("defaults")).spec, {
    mode: "Enforce",
    defaultAction: "Allow",
    ports: [80, 443, "1024-65535"],
    preset: "Generic",
    injection: { mode: "Env", conflictPolicy: "Respect" },
    nat: { provider: "External" },
    authentication: { mode: "None" },
    proxy: {
      port: 4750,
      adminPort: 9750,
      timeouts: { dnsSeconds: 2, connectSeconds: 5, idleSeconds: 300, drainSeconds: 30 },
      limits: { maxTunnels: 10_000, maxTunnelsPerClient: 0 },
      denyStatus: 403,
      reasonDetail: "Class",
      accessLog: "All",
    },
    networkPolicy: { proxy: "Enabled", senders: "Disabled" },
  });
});

test("sets the defaults of present parts", { skip }, async () => {
  const spec = {
    staticIPs: [{ address: "203.0.113.10" }],
    verification: { echoURLs: ["https://echo.example.net/ip"] },
    nat: { provider: "KubeVIP", kubeVIP: {} },
    authentication: { mode: "Basic", secretRef: { name: "p" } },
    proxy: { port: 5000, timeouts: { dnsSeconds: 1 } },
  };
  good(await apply(policy("parts", spec)));
  const stored = (await read("parts")).spec as typeof spec & { proxy: Record<string, unknown> };
  assert.deepEqual(stored.staticIPs, [{ address: "203.0.113.10", phase: "Active" }]);
  assert.deepEqual(stored.nat.kubeVIP, { loadBalancerClass: "kube-vip.io/kube-vip-class" });
  assert.deepEqual(stored.verification, {
    echoURLs: ["https://echo.example.net/ip"],
    timeoutSeconds: 5,
    staleAfterSeconds: 600,
    onUnverified: "Block",
  });
  assert.equal(stored.proxy.adminPort, 9750);
  assert.deepEqual(stored.proxy.timeouts, { dnsSeconds: 1, connectSeconds: 5, idleSeconds: 300, drainSeconds: 30 });
});

test("a policy that no operator has seen has an old generation in its status", { skip }, async () => {
  good(await apply(policy("unseen", {})));
  const { metadata, status } = (await read("unseen")) as unknown as {
    metadata: { generation: number };
    status: object;
  };
  assert.equal(metadata.generation, 1);
  // kstatus (helm --wait of Helm 4, Flux) takes a policy for current if the two generations agree or the second is missing.
  assert.deepEqual(status, { observedGeneration: -1 });
});

test("field selectors find policies by provider and readiness", { skip }, async () => {
  const nat = { provider: "PodIP", podIP: { annotations: { "cni.projectcalico.org/ipv4pools": "[]" } } };
  good(await apply(policy("selected", { nat })));
  const { spec: _, ...bare } = policy("selected", {});
  const status = { observedGeneration: 1, ready: "False" };
  good(await apply({ ...bare, status }, "--subresource=status", "--field-manager=outrider-status"));
  const found = async (selector: string) =>
    good(await kubectl(["get", "egpol", "--field-selector", selector, "-o", "name"]))
      .trim()
      .split("\n");
  const name = "egresspolicy.egress.outrider.dev/selected";
  assert.deepEqual(await found("spec.nat.provider=PodIP,status.ready=False"), [name]);
  assert.deepEqual(await found("status.ready=True"), [""]);
  assert.ok(!(await found("spec.nat.provider=External")).includes(name));
});

test("warns about or rejects an unknown field", { skip }, async () => {
  const typo = policy("typo", { defaultActoin: "Deny", proxy: { timeouts: { dns: 1 } } });
  const strict = await apply(typo, "--validate=strict");
  assert.equal(strict.status, 1);
  assert.match(strict.stderr, /unknown field "?\.?spec\.defaultActoin|spec\.defaultActoin: field not declared/);
  const warned = await kubectl(["create", "--validate=warn", "-f", "-"], JSON.stringify(typo));
  assert.match(warned.stderr, /Warning: unknown field "spec\.defaultActoin"/);
  assert.match(warned.stderr, /Warning: unknown field "spec\.proxy\.timeouts\.dns"/);
  assert.equal((await read("typo")).spec.defaultAction, "Allow");
});

test("kubectl explain describes the fields", { skip }, async () => {
  const explain = async (path: string) => good(await kubectl(["explain", path])).replace(/\s+/g, " ");
  assert.match(await explain("egpol"), /where the webhook senders of a namespace may connect to/);
  const allow = await explain("egpol.spec.allow");
  assert.match(allow, /a deny rule always wins/);
  assert.match(allow, /hosts <\[\]string> .*\*\.name for any name below it/);
  assert.match(allow, /cidrs <\[\]string> .*the rule opens private and other special-purpose ranges/);
  const mode = await explain("egpol.spec.mode");
  assert.match(mode, /ENUM: Enforce Report/);
  assert.match(mode, /records them as wouldDeny/);
  assert.match(await explain("egpol.spec.nat"), /provider <string> enum: External, PodIP, NodeAddress, KubeVIP/);
  assert.match(await explain("egpol.spec.verification"), /echoURLs <\[\]string> -required-/);
  assert.match(await explain("egpol.status.staticIPs"), /Mismatch: an echo server saw another address/);
  const clients = await explain("egpol.spec.clients");
  assert.match(clients, /A client is a user name with its own password, or the name in a client certificate/);
  assert.match(clients, /name <string> -required- .*default: the entry of every client without one/);
  assert.match(await explain("egpol.spec.clients.allow"), /hosts <\[\]string> .*Use set:NAME for a longer list/);
  assert.match(await explain("egpol.spec.hostSets"), /hosts <\[\]string> -required-/);
  const upstream = await explain("egpol.spec.upstreamProxy");
  assert.match(upstream, /url <string> -required- .*http:\/\/HOST:PORT/);
  assert.match(upstream, /resolve <string> enum: Local, Upstream .*no address of a name is checked/);
  assert.match(await explain("egpol.spec.proxy.tls"), /secretRef <Object> -required- .*Secrets of cert-manager/);
  assert.match(await explain("egpol.spec.authentication"), /mode <string> enum: None, Basic, TLS, BasicOrTLS/);
});

test("kubectl get shows the columns", { skip }, async () => {
  good(await apply(policy("shown", { mode: "Report", staticIPs: [{ address: "203.0.113.10" }] })));
  const reason = {
    type: "Ready",
    status: "False",
    observedGeneration: 1,
    lastTransitionTime: "2026-01-01T00:00:00Z",
    reason: "EgressIPMismatch",
    message: "observed 198.51.100.7",
  };
  const status = {
    observedGeneration: 1,
    conditions: [reason],
    staticIPs: [{ address: "203.0.113.10", state: "Mismatch", observedAddress: "198.51.100.7" }],
    endpoint: { host: "shown-egress.default.svc.cluster.local", port: 4750, clusterIP: "10.96.3.4" },
    summary: {
      staticIPs: "203.0.113.10",
      verified: "0/1",
      proxies: "1/2",
      workloads: "3/4",
      policyHash: `sha256:${"0".repeat(64)}`,
    },
  };
  const { spec: _, ...bare } = policy("shown", {});
  good(
    await apply({ ...bare, status }, "--subresource=status", "--field-manager=outrider-status", "--validate=strict"),
  );
  assert.deepEqual((await read("shown")).status, status);
  const rows = async (...args: string[]) =>
    good(await kubectl(["get", "egresspolicies.egress.outrider.dev", "shown", ...args]))
      .trimEnd()
      .split("\n")
      .map((line) => line.trim().split(/ {2,}/));
  const [head, line] = await rows();
  assert.deepEqual(head, ["NAME", "READY", "MODE", "PROVIDER", "IPS", "VERIFIED", "PROXIES", "PODS", "AGE"]);
  assert.deepEqual(line?.slice(0, -1), ["shown", "False", "Report", "External", "203.0.113.10", "0/1", "1/2", "3/4"]);
  const [wideHead, wide] = await rows("-o", "wide");
  assert.deepEqual(wideHead?.slice(-2), ["REASON", "MESSAGE"]);
  assert.deepEqual(wide?.slice(-2), ["EgressIPMismatch", "observed 198.51.100.7"]);
  assert.match(good(await kubectl(["get", "outrider"])), /shown/);

  const twice = { ...status, conditions: [reason, { ...reason, status: "True" }] };
  assert.match((await apply({ ...bare, status: twice }, "--subresource=status")).stderr, /[Dd]uplicate/);
  const empty = { ...status, conditions: [{ ...reason, reason: "" }] };
  assert.match(
    (await apply({ ...bare, status: empty }, "--subresource=status", "--force-conflicts")).stderr,
    /status\.conditions\[0\]\.reason/,
  );
});

test("merges static IPs by address and replaces rules", { skip }, async () => {
  const part = (address: string, host: string) =>
    policy("merged", { staticIPs: [{ address }], deny: [{ hosts: [host] }] });
  good(await apply(part("203.0.113.10", "a.example"), "--field-manager=one"));
  assert.match(
    (await apply(part("203.0.113.11", "b.example"), "--field-manager=two")).stderr,
    /conflict with "one": \.spec\.deny/,
  );
  good(await apply(part("203.0.113.11", "b.example"), "--field-manager=two", "--force-conflicts"));
  const { staticIPs, deny } = (await read("merged")).spec as { staticIPs: { address: string }[]; deny: unknown };
  assert.deepEqual(staticIPs.map(({ address }) => address).sort(), ["203.0.113.10", "203.0.113.11"]);
  assert.deepEqual(deny, [{ hosts: ["b.example"] }]);
});

// An empty list means something else than none. A set that becomes empty would take its parents along.
test("an empty list of init containers replaces a longer one", { skip }, async () => {
  for (const initContainers of [["fetch"], []]) {
    good(await apply(policy("emptied", { injection: { initContainers } })));
    const { spec } = await read("emptied");
    assert.deepEqual((spec.injection as Record<string, unknown>).initContainers, initContainers);
  }
});

test("schema and policy engine agree, with listed exceptions", { skip }, async () => {
  const answers = await tryAll(AGREEMENTS.map(({ spec }) => spec));
  for (const [i, { spec, schema, engine, why }] of AGREEMENTS.entries()) {
    const at = JSON.stringify(spec);
    assert.equal(answers[i]!.accepted, schema, `API server: ${at}: ${answers[i]!.error}`);
    let taken = true;
    try {
      readManifest(policy("same", spec));
    } catch (error) {
      assert.ok(error instanceof PolicyError);
      taken = false;
    }
    assert.equal(taken, engine, `engine: ${at}`);
    assert.equal(schema !== engine, why !== undefined, `${at}: a difference has a reason, and only a difference`);
  }
});

/** A policy of `rules` named rules in each list, which share `hosts` host names of about `length` characters. */
function large(rules: number, hosts: number, length: number): object {
  const rest = "x".repeat(length - 16).replace(/x{50}(?=x)/g, "$&.");
  let next = 0;
  const list = (kind: string) =>
    Array.from({ length: rules }, (_, i) => ({
      name: `${kind}-${i}`,
      hosts: Array.from(
        { length: Math.floor((hosts * (i + 1)) / rules / 2) - Math.floor((hosts * i) / rules / 2) },
        () => `h${String(next++).padStart(6, "0")}.${rest}.example`,
      ),
    }));
  return policy("large", { allow: list("allow"), deny: list("deny") });
}

test("accepts 20,000 hosts with --server-side", { skip }, async (t) => {
  for (const [rules, length] of [
    [128, 25],
    [256, 70],
  ] as const) {
    const object = large(rules, 20_000, length);
    const begin = performance.now();
    good(await apply(object));
    const seconds = ((performance.now() - begin) / 1000).toFixed(1);
    t.diagnostic(`2 × ${rules} rules, 20,000 hosts, ${JSON.stringify(object).length} bytes: ${seconds} s`);
    good(await kubectl(["delete", "egresspolicies.egress.outrider.dev", "large"]));
  }
});

test("accepts 256 clients with 48 rules each, and 64 host sets", { skip }, async (t) => {
  const rules = (kind: string, i: number) =>
    Array.from({ length: 16 }, (_, k) => ({ hosts: [`set:s${k}`, `${kind}${k}.c${i}.example`], ports: [443] }));
  const spec = {
    authentication: { mode: "Basic", secretRef: { name: "passwords" } },
    hostSets: Array.from({ length: 64 }, (_, i) => ({ name: `s${i}`, hosts: [`*.s${i}.example`] })),
    clients: Array.from({ length: 256 }, (_, i) => ({
      ...{ name: `c${i}`, allow: rules("a", i), deny: rules("d", i), upstreamProxies: rules("u", i) },
    })),
  };
  const object = policy("clients", spec);
  const begin = performance.now();
  good(await apply(object));
  const seconds = ((performance.now() - begin) / 1000).toFixed(1);
  t.diagnostic(`${JSON.stringify(object).length} bytes: ${seconds} s`);
  assert.equal(readManifest(await read("clients")).document.clients?.length, 256);
});

test("accepts what import writes for an acl.yaml at the limits", { skip }, async () => {
  const shared = Array.from({ length: 20_001 }, (_, i) => `h${i}.example`);
  const addresses = Array.from({ length: 1024 }, (_, i) => `9.9.${i >> 8}.${i & 255}`);
  const sections = [shared, shared, addresses, ["one.example", "9.9.9.9"], ["one.example", "9.9.9.9"], []];
  const acl = {
    services: Array.from({ length: 256 }, (_, i) => ({
      name: `service_${i}.Test`,
      action: ["enforce", "report", "open"][i % 3],
      allowed_domains: sections[i] ?? [`s${i}.example`, "*.s.example"],
    })),
    global_allow_list: addresses.slice(0, 501),
    global_deny_list: ["*.internal"],
  };
  const { spec } = parse(importAcl(JSON.stringify(acl), {}).yaml) as { spec: Record<string, unknown> };
  assert.deepEqual([(spec.clients as []).length, (spec.hostSets as []).length], [256, 3]);
  const [without, basic] = await tryAll([
    spec,
    { ...spec, authentication: { mode: "Basic", secretRef: { name: "clients" } } },
  ]);
  assert.match(without!.error, /authentication/);
  assert.equal(basic!.error, "");
});

test("rejects a policy that is too large with a message", { skip }, async () => {
  const rows: [length: number, args: string[], says: RegExp][] = [
    [25, ["apply"], /metadata\.annotations: Too long: may not be more than 262144 bytes/],
    [80, ["apply", "--server-side"], /etcdserver: request is too large/],
    [120, ["apply", "--server-side"], /trying to send message larger than max/],
    [160, ["apply", "--server-side"], /Request entity too large: limit is 3145728/],
  ];
  for (const [length, args, says] of rows) {
    const answer = await kubectl([...args, "-f", "-"], JSON.stringify(large(256, 20_000, length)));
    assert.equal(answer.status, 1);
    assert.match(answer.stderr, says);
  }
});
