import assert from "node:assert/strict";
import { test } from "node:test";
import { isDeepStrictEqual } from "node:util";
import fc from "fast-check";
import { ANNOTATION, LABEL } from "../../operator/api/names.ts";
import { coverage } from "../../operator/injection/coverage.ts";
import { excludes, widens } from "../../operator/injection/exclusions.ts";
import { inject, optIn, type PodLike } from "../../operator/injection/inject.ts";
import type { Container, EnvVar } from "../../operator/injection/pod.ts";
import { expectedBy, markerOf, NO_PROXY_NAMES, PASSWORD_NAME, URL_NAMES } from "../../operator/injection/variables.ts";
import { viewFor } from "../../operator/injection/warnings.ts";
import { runs, SHARE } from "../harness/runs.ts";
import { applied, environment, targetOf } from "./policies.ts";

/** Random pods and policies, with few names and values so that they often match. */

/** Password in URLs of other proxies, which must never appear in a result. */
const PASSWORD = "hunter2";
const HOST = "webhooks-egress.convoy.svc.cluster.local.:4750";
const OWN_HOST = /(^|\/|@)webhooks-egress\.convoy\.svc\.cluster\.local(\.:4750|:4751)$/;
const OWN = [`http://${HOST}`, "http://webhooks-egress:4750/", `http://outrider:$(${PASSWORD_NAME})@${HOST}`];
const JAVA = [
  "-Xmx1g",
  "-Dhttp.proxyHost=squid -Dhttp.proxyPort=3128 -ea",
  `-Dhttps.proxyHost=webhooks-egress.convoy.svc -Dhttps.proxyPort=1 -Dhttp.nonProxyHosts=a|b`,
  "-Dhttp.nonProxyHosts=*.svc -Xss1m",
];
const VALUES = ["", " ", ...OWN, `http://u:${PASSWORD}@squid.corp:3128`, "$(A)", "a.example, .svc", "10.0.0.0/8", "*"];
const NAMES = [
  ...[...URL_NAMES, ...NO_PROXY_NAMES, PASSWORD_NAME, "NODE_USE_ENV_PROXY", "ALL_PROXY", "A", "B"],
  ...["SVIX_PROXY_ADDR", "SVIX_NOPROXY", "CONVOY_SERVER_HTTP_HTTP_PROXY", "CONVOY_SERVER_HTTP_NO_PROXY"],
  ...[
    "DESTINATIONS_WEBHOOK_PROXY_URL",
    "CONVOY_OTEL_COLLECTOR_URL",
    "CONVOY_ENABLE_FEATURE_FLAG",
    "CONVOY_LICENSE_KEY",
  ],
];
const source = fc.constantFrom(
  { secretKeyRef: { name: "proxy-passwords", key: "PROXY_PASSWORD" } },
  { secretKeyRef: { name: "other", key: "k" } },
  { configMapKeyRef: { name: "c", key: "k" } },
);
const entry: fc.Arbitrary<EnvVar> = fc.oneof(
  { weight: 6, arbitrary: fc.record({ name: fc.constantFrom(...NAMES), value: fc.constantFrom(...VALUES) }) },
  { weight: 1, arbitrary: fc.record({ name: fc.constantFrom(...NAMES), valueFrom: source }) },
  { weight: 1, arbitrary: fc.record({ name: fc.constantFrom(...NAMES) }) },
  {
    weight: 1,
    arbitrary: fc.record({
      name: fc.constantFrom("JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS"),
      value: fc.constantFrom(...JAVA),
    }),
  },
);
/** Exclusions are hosts: no password can be in them, and they are copied. */
const isExclusion = (name: string) => /no_?proxy$/i.test(name);
const sensible = entry.map(({ name, value, ...rest }): EnvVar => {
  if (value === undefined) return { name, ...rest };
  return { name, value: isExclusion(name) && value.includes(PASSWORD) ? "b.example" : value };
});
const container = (name: string): fc.Arbitrary<Container> =>
  fc.record(
    {
      name: fc.constant(name),
      image: fc.constantFrom("app:1", "getconvoy/convoy:v26.3.5", "getconvoy/convoy:v26.7.3", "svix/svix-server"),
      args: fc.constantFrom(["agent"], ["server", `--proxy=http://u:${PASSWORD}@squid`], ["-Dhttp.proxyHost=squid"]),
      env: fc.array(sensible, { maxLength: 8 }),
      envFrom: fc.constant([{ configMapRef: { name: "c" } }]),
    },
    { requiredKeys: ["name"] },
  );
const containers = (names: string[]) => fc.tuple(...names.map(container)).chain((all) => fc.shuffledSubarray(all));
const pods: fc.Arbitrary<PodLike> = fc.record({
  metadata: fc.record(
    {
      labels: fc.constantFrom<Record<string, string>>({}, { app: "x" }, { [LABEL.injected]: "old" }),
      annotations: fc.constantFrom<Record<string, string>>(
        { [LABEL.policy]: "webhooks" },
        { [LABEL.policy]: "webhooks", [ANNOTATION.client]: "billing", "a/~b": "c" },
        { [LABEL.policy]: "webhooks", [ANNOTATION.injected]: "old@1", [ANNOTATION.skipped]: "x" },
      ),
    },
    { requiredKeys: [] },
  ),
  spec: fc.record(
    {
      hostNetwork: fc.boolean(),
      containers: containers(["agent", "server", "istio-proxy"]),
      initContainers: containers(["migrate", "fetch"]),
    },
    { requiredKeys: ["containers"] },
  ),
});
const specs = fc.record({
  preset: fc.constantFrom("Generic", "Convoy", "Svix", "Outpost", "Java"),
  injection: fc.record(
    {
      conflictPolicy: fc.constantFrom("Respect", "Overwrite"),
      containers: fc.constantFrom([], ["agent"], ["missing"]),
      initContainers: fc.constantFrom([], ["fetch"]),
      noProxy: fc.constantFrom([], ["otel.monitoring.svc", ".svc"], ["10.0.0.5", "otel:4317"]),
      tls: fc.boolean(),
    },
    { requiredKeys: [] },
  ),
  proxy: fc.constant({ tls: { secretRef: { name: "webhooks-tls" } } }),
  authentication: fc.constantFrom(
    { mode: "None" },
    { mode: "Basic", secretRef: { name: "proxy-passwords" } },
    { mode: "BasicOrTLS", secretRef: { name: "proxy-passwords" } },
    { mode: "TLS" },
  ),
});
const targets = fc.record({ spec: specs, ip: fc.constantFrom(undefined, "10.96.3.4", "fd00::7") });
const holds = (check: (pod: PodLike, target: ReturnType<typeof targetOf>, stored: PodLike) => void) =>
  fc.assert(
    fc.property(pods, targets, (drawn, { spec, ip }) => {
      const pod = structuredClone(drawn);
      const target = targetOf(spec, ip);
      const before = structuredClone(pod);
      const { patch } = inject(pod, target);
      assert.deepEqual(pod, before, "the input was changed");
      check(pod, target, applied(pod, patch));
    }),
    { numRuns: runs(3000), ...(process.env.SEED === undefined ? {} : { seed: Number(process.env.SEED) }) },
  );

const all = (pod: PodLike): Container[] => [...(pod.spec?.initContainers ?? []), ...(pod.spec?.containers ?? [])];
/** Every container as it was and as it is. */
const pairs = (pod: PodLike, stored: PodLike): [Container, Container][] =>
  all(pod).map((one, i) => [one, all(stored)[i]!]);
const last = (one: Container, name: string) => one.env?.findLast((found) => found.name === name);

test("injection is idempotent", () => {
  holds((_, target, stored) => {
    const again = inject(stored, target);
    assert.deepEqual([again.patch, again.events], [[], []]);
  });
});

test("a container gets all variables or none", () => {
  holds((pod, target, stored) => {
    for (const [before, after] of pairs(pod, stored)) {
      if (JSON.stringify(before) === JSON.stringify(after)) continue;
      const urls = new Set(URL_NAMES.map((name) => last(after, name)?.value));
      assert.equal(urls.size, 1);
      assert.match(
        [...urls][0]!,
        target.policy.spec.injection.tls === true
          ? /^https:\/\/([\w]+:\$\(EGRESS_PROXY_PASSWORD\)@)?webhooks-egress\.convoy\.svc\.cluster\.local:4751$/
          : /^http:\/\/([\w]+:\$\(EGRESS_PROXY_PASSWORD\)@)?webhooks-egress\.convoy\.svc\.cluster\.local\.:4750$/,
      );
      const { name: _a, ...upper } = last(after, "NO_PROXY")!;
      const { name: _b, ...lower } = last(after, "no_proxy")!;
      // One that cannot be read stays beside one that the pod has as well.
      const kept = NO_PROXY_NAMES.every((name) => isDeepStrictEqual(last(before, name), last(after, name)));
      if (!kept) assert.deepEqual({ value: "", ...upper }, { value: "", ...lower });
      const names = after.env!.map((one) => one.name);
      for (const name of URL_NAMES) assert.equal(names.filter((one) => one === name).length, 1, name);
      if (target.policy.spec.authentication.mode.startsWith("Basic")) {
        const first = after.env!.findIndex((one) => one.value?.includes(`$(${PASSWORD_NAME})`));
        assert.ok(names.indexOf(PASSWORD_NAME) < first && names.lastIndexOf(PASSWORD_NAME) < first);
      }
    }
  });
});

test("no variable that replaces the roots of a sender is set", () => {
  holds((pod, target, stored) => {
    for (const [before, after] of pairs(pod, stored)) {
      const added = (after.env ?? []).map(({ name }) => name).filter((name) => last(before, name) === undefined);
      for (const name of added) assert.doesNotMatch(name, /SSL_CERT|CA_BUNDLE|CAINFO|TRUST/);
      const options = last(after, "JAVA_TOOL_OPTIONS")?.value ?? "";
      assert.doesNotMatch(options, /trustStore/);
      // A container has the variable and the file, or neither.
      const file = last(after, "NODE_EXTRA_CA_CERTS")?.value !== undefined;
      const mount = after.volumeMounts?.some(({ name }) => name === "outrider-proxy-ca") ?? false;
      const volume = stored.spec?.volumes?.some(({ name }) => name === "outrider-proxy-ca") ?? false;
      assert.deepEqual([mount, file && !volume], [file, false]);
      if (file) assert.equal(target.policy.spec.injection.tls, true);
    }
  });
});

test("the password precedes every URL, wherever the pod has it", () => {
  const target = targetOf({ authentication: { mode: "Basic", secretRef: { name: "proxy-passwords" } } });
  const password = {
    name: PASSWORD_NAME,
    valueFrom: { secretKeyRef: { name: "proxy-passwords", key: "PROXY_PASSWORD" } },
  };
  const urls = URL_NAMES.map((name) => ({ name, value: OWN[2]! }));
  const others = [...NO_PROXY_NAMES.map((name) => ({ name, value: "" })), { name: "NODE_USE_ENV_PROXY", value: "1" }];
  const secrets = { "proxy-passwords": { PROXY_PASSWORD: PASSWORD } };
  const places = urls.map((_, i) => [...urls.slice(0, i), password, ...urls.slice(i)]);
  for (const [i, env] of [...places, [...urls, password], [password, ...urls, password], urls].entries()) {
    const pod = {
      metadata: { annotations: { [LABEL.policy]: "webhooks" } },
      spec: { containers: [{ name: "agent", env: [...env, ...others] }] },
    };
    const stored = applied(pod, inject(pod, target).patch);
    const after = stored.spec!.containers![0]!.env!;
    const found = environment(after, secrets);
    for (const name of URL_NAMES)
      assert.equal(found[name], `http://outrider:${PASSWORD}@${HOST}`, `place ${i}: ${name}`);
    assert.equal(after.filter(({ name }) => name === PASSWORD_NAME).length, 1);
    // In front of all of them, it stays where it is.
    if (i === 0) assert.deepEqual(after, pod.spec.containers[0]!.env);
  }
});

test("keeps other fields and their order", () => {
  const ours = new Set([
    "NODE_EXTRA_CA_CERTS",
    ...NAMES.filter((name) => !["A", "B", "ALL_PROXY"].includes(name)),
    "JAVA_TOOL_OPTIONS",
  ]);
  holds((pod, _, stored) => {
    for (const [before, after] of pairs(pod, stored)) {
      const foreign = ({ volumeMounts: _, ...one }: Container) => ({
        ...one,
        env: (one.env ?? []).filter(({ name }) => !ours.has(name)),
      });
      assert.deepEqual(foreign(after), foreign(before));
      if (["istio-proxy", "migrate"].includes(before.name)) assert.deepEqual(after, before);
    }
    const rest = ({ labels = {}, annotations = {} }: PodLike["metadata"]) =>
      [labels, annotations].map((map) =>
        Object.entries(map).filter(
          ([key]) => !/\/(injected|skipped|may-ignore-proxy|init-containers|rejected-endpoints)$/.test(key),
        ),
      );
    assert.deepEqual(rest(stored.metadata), rest(pod.metadata));
  });
});

test("patch, warnings and events contain no password", () => {
  let seen = 0;
  holds((pod, target) => {
    if (JSON.stringify(pod).includes(PASSWORD)) seen++;
    const said = JSON.stringify(inject(pod, target));
    assert.ok(!said.includes(PASSWORD), said);
  });
  assert.ok(seen > 500 * SHARE, `only ${seen} pods had one`);
});

test("warnings and events respect the limits of the API server", () => {
  holds((pod, target) => {
    const { warnings, events } = inject(pod, target);
    assert.ok(warnings.every((text) => text.length <= 256) && warnings.join("").length <= 4096);
    assert.ok(events.every(({ message }) => message.length <= 1024));
  });
});

test("a pod is covered if all selected containers have the variables", () => {
  const seen = new Set<string>();
  holds((_, target, stored) => {
    const asking = { ...stored.metadata, annotations: { ...stored.metadata.annotations, [LABEL.policy]: "webhooks" } };
    const found = coverage({ metadata: asking }, expectedBy(target));
    seen.add(found);
    const { annotations, labels } = stored.metadata;
    assert.equal(labels?.[LABEL.injected] === "webhooks", annotations?.[ANNOTATION.injected] !== undefined);
    if (found !== "covered") return;
    const listed = target.policy.spec.injection.containers ?? [];
    for (const one of stored.spec!.containers!) {
      if (listed.length > 0 ? !listed.includes(one.name) : one.name === "istio-proxy") continue;
      assert.match(last(one, "HTTPS_PROXY")?.value ?? "", OWN_HOST, one.name);
    }
  });
  // A small share of the inputs may have only one of them.
  if (SHARE === 1) assert.deepEqual(seen, new Set(["covered", "missed"]));
});

test("coverage distinguishes stale, missed and foreign pods", () => {
  const wanted = markerOf(targetOf({}))!;
  const pod = (annotations: Record<string, string>, labels: Record<string, string> = {}) => ({
    metadata: { annotations, labels },
  });
  const asks = { [LABEL.policy]: "webhooks" };
  const cases: [PodLike, string][] = [
    [pod({}), "none"],
    [pod({ ...asks, [ANNOTATION.injected]: wanted }), "covered"],
    [pod({ [ANNOTATION.injected]: wanted }, asks), "covered"],
    [pod({ ...asks, [ANNOTATION.injected]: "webhooks@000000000000" }), "stale"],
    [pod({ ...asks, [ANNOTATION.injected]: "other@000000000000" }), "missed"],
    [pod(asks), "missed"],
    [pod({ ...asks, [ANNOTATION.injected]: wanted, [ANNOTATION.skipped]: "a=b" }), "missed"],
    [pod({ ...asks, [ANNOTATION.injected]: wanted, [ANNOTATION.mayIgnoreProxy]: "a: b" }), "missed"],
    [pod({ [LABEL.policy]: "other", [ANNOTATION.injected]: wanted }), "none"],
    [pod(asks, { [LABEL.fleet]: "webhooks" }), "none"],
  ];
  for (const [one, expected] of cases)
    assert.equal(
      coverage(one, () => ({ marker: wanted, refused: false })),
      expected,
      JSON.stringify(one),
    );
  assert.equal(
    coverage(pod(asks), () => undefined),
    "none",
  );
  assert.equal(
    coverage(pod(asks), () => ({ marker: wanted, refused: false }), { [LABEL.inject]: "disabled" }),
    "none",
  );
  assert.equal(optIn(pod(asks), { [LABEL.inject]: "enabled" }), "webhooks");
});

test("a pod without rules is missed until its client has an entry", () => {
  const spec = (...names: string[]) => ({
    authentication: { mode: "Basic", secretRef: { name: "p" } },
    clients: names.map((name) => ({ name })),
  });
  const stored = (client?: string) => {
    const annotations = {
      [LABEL.policy]: "webhooks",
      ...(client === undefined ? {} : { [ANNOTATION.client]: client }),
    };
    const pod = { metadata: { annotations }, spec: { containers: [{ name: "agent" }] } };
    return applied(pod, inject(pod, targetOf(spec("billing"))).patch);
  };
  const cases: [PodLike, string[], string][] = [
    [stored(), ["billing"], "missed"],
    [stored(), ["billing", "default"], "covered"],
    [stored("billing"), ["billing"], "covered"],
    [stored("billing"), ["Billing"], "missed"],
    [stored("billing"), ["orders", "default"], "covered"],
    [stored("__proto__"), ["orders"], "missed"],
  ];
  for (const [pod, names, expected] of cases) {
    assert.equal(coverage(pod, expectedBy(targetOf(spec(...names)))), expected, names.join());
  }
  // Without clients every name gets the policy's rules.
  const { clients: _, ...without } = spec("x");
  assert.equal(coverage(stored("billing"), expectedBy(targetOf(without))), "covered");
});

test("a policy is compiled once for all of its clients", () => {
  const clients = [
    { name: "a", allow: [{ hosts: ["a.example"] }] },
    { name: "b", deny: [{ hosts: ["b.example"] }] },
  ];
  const authentication = { mode: "Basic", secretRef: { name: "p" } };
  const { policy } = targetOf({ authentication, deny: [{ hosts: ["x.example"] }], clients });
  const view = (name: string) => viewFor({ policy, who: { kind: "own", name } });
  assert.deepEqual([view("a")?.entry, view("b")?.entry, view("c")], ["a", "b", undefined]);
  assert.equal(view("a"), view("a"));
  assert.equal(view("a")!.deny, view("b")!.deny);
  assert.equal(viewFor({ policy, who: { kind: "shared" } }), undefined);
});

test("the marker changes only with the injected settings", () => {
  const basic = (name: string) => ({ authentication: { mode: "Basic", secretRef: { name } } });
  const differing = [
    {},
    { preset: "Convoy" },
    { injection: { noProxy: ["a.example"] } },
    { injection: { containers: ["agent"] } },
    { injection: { initContainers: ["agent"] } },
    basic("one"),
    basic("two"),
    { injection: { tls: true }, proxy: { tls: { secretRef: { name: "one" } } } },
    { injection: { tls: true }, proxy: { tls: { secretRef: { name: "two" } } } },
  ];
  assert.equal(new Set(differing.map((spec) => markerOf(targetOf(spec)))).size, differing.length);
  const same = [
    {},
    { mode: "Report" },
    { deny: [{ hosts: ["a.example"] }] },
    { injection: { conflictPolicy: "Overwrite" } },
    { proxy: { tls: { secretRef: { name: "one" } } } },
  ];
  assert.equal(new Set(same.map((spec) => markerOf(targetOf(spec, "10.96.3.4")))).size, 1);
  assert.equal(markerOf(targetOf({ injection: { mode: "None" } })), undefined);
});

test("listed init containers make only those pods stale that have them", () => {
  const stored = (initContainers: string[]) => {
    const containers = [{ name: "agent" }];
    const pod = {
      metadata: { annotations: { [LABEL.policy]: "webhooks" } },
      spec: { containers, initContainers: initContainers.map((name) => ({ name })) },
    };
    return applied(pod, inject(pod, targetOf({})).patch);
  };
  const later = expectedBy(targetOf({ injection: { initContainers: ["migrate"] } }));
  for (const [names, expected] of [
    [[], "covered"],
    [["wait"], "covered"],
    [["wait", "migrate"], "stale"],
  ] as const) {
    assert.equal(coverage(stored([...names]), later), expected, names.join(" "));
  }
  // Injected before the annotation existed: the names are unknown.
  const { metadata } = stored(["wait"]);
  delete metadata.annotations![ANNOTATION.initContainers];
  assert.equal(coverage({ metadata }, later), "stale");
  assert.equal(coverage({ metadata }, expectedBy(targetOf({}))), "covered");
});

test("detects entries of NO_PROXY that let tenants in", () => {
  const wide = `
    * localhost LOCALHOST svc .svc .SVC *.svc cluster.local .cluster.local svc.cluster.local shop.svc *.shop.svc
    shop.svc.cluster.local .orders.shop.svc .local .com .compute.internal 127.0.0.1:80 169.254.169.254 ::1 [fd00::1]:80
    10.0.0.5 10.0.0.0/8 10.1.2.3/16 172.0.0.0/8 8.1.2.3/7 0.0.0.0/0 ::/0 fd00::/8`;
  const exact = `
    orders.shop.svc orders.shop.svc.cluster.local:4317 otel hooks.example .hooks.example
    8.8.8.8 8.8.8.0/24 8.8.8.8/24 2606:4700::1 a/b`;
  const list = (text: string) => text.trim().split(/\s+/);
  for (const entry of list(wide)) assert.equal(widens(entry, "cluster.local"), true, entry);
  for (const entry of list(exact)) assert.equal(widens(entry, "cluster.local"), false, entry);
  assert.equal(widens("orders.shop.svc.k8s.corp", "k8s.corp"), false);
  assert.equal(widens("shop.svc.k8s.corp", "k8s.corp"), true);
});

test("an entry excludes a host as in Go", () => {
  for (const entry of ["a.b.svc", "b.svc", ".b.svc", "*", "*.svc", "a.b.svc:4317"])
    assert.ok(excludes(entry, "a.b.svc"), entry);
  for (const entry of ["10.1.2.0/24", "10.1.2.3"]) assert.ok(excludes(entry, "10.1.2.3"), entry);
  assert.ok(!excludes("10.1.3.0/24", "10.1.2.3"));
  assert.ok(excludes("fd00::/8", "fd00::1"));
  for (const entry of [".a.b.svc", "x.svc", "10.0.0.0/8", "aa.b.svc"]) assert.ok(!excludes(entry, "a.b.svc"), entry);
});

test("expands the environment as the kubelet does", () => {
  const env = [
    { name: "A", value: "1" },
    { name: "P", valueFrom: { secretKeyRef: { name: "s", key: "k" } } },
    { name: "B", value: "$(A)-$(P)-$(C)-$$(A)-$A" },
    { name: "C", value: "2" },
    { name: "A", value: "3" },
  ];
  assert.deepEqual(environment(env, { s: { k: "x" } }), { A: "3", P: "x", B: "1-x-$(C)-$(A)-$A", C: "2" });
  assert.throws(() => environment(env), /CreateContainerConfigError/);
});
