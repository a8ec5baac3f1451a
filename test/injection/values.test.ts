import assert from "node:assert/strict";
import { test } from "node:test";
import { LABEL } from "../../operator/api/names.ts";
import { clientOf, isClientName, whoOf } from "../../operator/injection/clients.ts";
import { coverage, mayIgnoreProxy } from "../../operator/injection/coverage.ts";
import { excludes, widens } from "../../operator/injection/exclusions.ts";
import { type InjectionTarget, inject, MAX_WARNING_CHARS, optIn } from "../../operator/injection/inject.ts";
import { exclusionsOf, hasOtherProxy, javaOptions } from "../../operator/injection/java.ts";
import { type Container, isSet, type PodLike } from "../../operator/injection/pod.ts";
import { imageOf, isConvoy, isOldConvoy } from "../../operator/injection/presets.ts";
import { ownOf, PASSWORD_NAME, URL_NAMES, wantedOf } from "../../operator/injection/variables.ts";
import { targetOf } from "./policies.ts";

/** Values as senders write them: arguments, variables, options of the JVM, images, and the warnings about them. */

const HOST = "webhooks-egress.convoy.svc.cluster.local";
const ASKS = { annotations: { [LABEL.policy]: "webhooks" } };
const BASIC = { authentication: { mode: "Basic", secretRef: { name: "passwords" } } };
const podWith = (container: Partial<Container>, metadata: PodLike["metadata"] = ASKS): PodLike => ({
  metadata,
  spec: { containers: [{ name: "app", ...container }] },
});
const warningsIn = (target: InjectionTarget, container: Partial<Container>) =>
  inject(podWith(container), target).warnings.map((text) => text.replace("outrider: ", ""));
const warnings = (spec: object, container: Partial<Container>, clusterIP?: string) =>
  warningsIn(targetOf(spec, clusterIP), container);
const env = (values: Record<string, string>) => Object.entries(values).map(([name, value]) => ({ name, value }));
const reference = { configMapKeyRef: { name: "c", key: "k" } };

/** Names and values of the variables that the injection adds or changes. */
function injected(spec: object, container: Partial<Container>, clusterIP?: string) {
  const { patch } = inject(podWith(container), targetOf(spec, clusterIP));
  const added = patch.flatMap(({ path, value }) => (path.includes("/env") ? [value] : [])).flat();
  return added as { name: string; value?: string; valueFrom?: object }[];
}

test("an argument that sets another proxy is a conflict", () => {
  const conflict = (args: string[], spec: object = { preset: "Convoy" }, image = "app:1") => {
    const [first = ""] = warnings(spec, { args, image });
    return /its argument (\S+) overrides/.exec(first)?.[1];
  };
  for (const args of [
    ["--proxy", "http://squid:3128"],
    ["--proxy=http://squid:3128"],
    ["--proxy", " http://squid:3128"],
    ["agent --proxy  http://squid:3128"],
    ["--proxy=$OTHER"],
    ["--proxy=http://$HTTP_PROXY"],
    ["--proxy=$HTTP_PROXY.squid"],
  ]) {
    assert.equal(conflict(args), "--proxy", args.join(" "));
  }
  for (const args of [
    ["--proxy="],
    ["--proxy"],
    ["--proxy=$HTTP_PROXY"],
    ["--proxy=$(HTTP_PROXY)"],
    [`--proxy=\${https_proxy}`],
    [`--proxy=http://${HOST}:4750`],
  ]) {
    assert.equal(conflict(args), undefined, args.join(" "));
  }
  assert.equal(conflict(["--proxy=http://squid:3128"], {}), undefined, "a flag of another program");
  assert.equal(conflict(["--proxy=http://squid:3128"], {}, "getconvoy/convoy:v26.7.3"), "--proxy");
  assert.equal(conflict(["-Dhttps.proxyHost=squid"], {}), "-Dhttps.proxyHost");
  for (const arg of [
    "-Dhttp.proxyHost=",
    "-Dhttp.proxyHost=webhooks-egress",
    "-Dhttp.proxyHost squid",
    "-Dhttp.proxyHostName=squid",
    "x-Dhttp.proxyHost=squid",
  ]) {
    assert.equal(conflict([arg], {}), undefined, arg);
  }
});

test("recognizes URLs and hosts of the policy in every spelling", () => {
  const own = ownOf(targetOf({}, "10.96.3.4"), podWith({}));
  for (const url of [
    "http://webhooks-egress:4750",
    "webhooks-egress.convoy:4750",
    "http://WEBHOOKS-EGRESS.convoy.svc:4750/",
    `http://${HOST}.:4750`,
    "http://10.96.3.4:4750",
    `http://outrider:$(${PASSWORD_NAME})@webhooks-egress:4750`,
  ]) {
    assert.ok(own.url(url), url);
  }
  for (const url of [
    "xhttp://webhooks-egress:4750",
    "http://webhooks-egress:4750/path",
    "http://webhooks-egress:9999",
    "http://webhooks-egress",
    "http://other-egress:4750",
    "http://outrider:secret@webhooks-egress:4750",
    `http://:$(${PASSWORD_NAME})secret@webhooks-egress:4750`,
    "http://webhooks-egress.convoy.svc.cluster:4750",
    "",
  ]) {
    assert.ok(!own.url(url), url);
  }
  const six = ownOf(targetOf({}, "fd00::1"), podWith({}));
  assert.ok(six.url("http://[fd00::1]:4750") && !six.url("http://[fd00::2]:4750"));
  const target = targetOf({});
  target.policy.status = {};
  assert.ok(ownOf(target, podWith({})).host("webhooks-egress"));
  assert.ok(!ownOf(target, podWith({})).host("10.96.3.4"));
});

test("accepts a URL of the policy with blanks around it", () => {
  const values = Object.fromEntries(URL_NAMES.map((name) => [name, " http://webhooks-egress:4750 "]));
  assert.deepEqual(warnings({}, { env: env(values) }), []);
});

test("credentials need authentication and its Secret", () => {
  const credentials = (spec: object) => {
    const { password, urls } = wantedOf(targetOf(spec), undefined);
    return [password !== undefined, urls.get("HTTP_PROXY")!.includes("@")];
  };
  assert.deepEqual(credentials(BASIC), [true, true]);
  assert.deepEqual(credentials({ authentication: { mode: "Basic" } }), [false, false]);
  assert.deepEqual(credentials({ authentication: { mode: "None", secretRef: { name: "p" } } }), [false, false]);
  const target = targetOf({ preset: "Svix" });
  target.policy.status = {};
  assert.equal(wantedOf(target, undefined).urls.get("SVIX_PROXY_ADDR"), `http://${HOST}.:4750`);
});

test("reads the client name of a pod", () => {
  const client = "egress.outrider.dev/client";
  assert.equal(clientOf({ metadata: { annotations: { [client]: " agent " } } }), "agent");
  assert.equal(clientOf({ metadata: { annotations: { [client]: " " } } }), undefined);
  assert.ok(isClientName("a".repeat(253)) && !isClientName("a".repeat(254)) && !isClientName("a b"));
});

test("a pod is the client of its annotation only if its sender can authenticate", () => {
  const named = { metadata: { annotations: { "egress.outrider.dev/client": "billing" } } };
  const who = (authentication: object, preset = "Generic", pod: PodLike = named) =>
    whoOf(pod, targetOf({ preset, authentication }).policy.spec);
  const basic = { mode: "Basic", secretRef: { name: "p" } };
  assert.deepEqual(who(basic), { kind: "own", name: "billing" });
  assert.deepEqual(who({ ...basic, mode: "BasicOrTLS" }), { kind: "own", name: "billing" });
  assert.deepEqual(who(basic, "Generic", { metadata: {} }), { kind: "shared" });
  for (const mode of ["None", "TLS"]) assert.deepEqual(who({ mode }), { kind: "missing" });
  for (const preset of ["Svix", "Java"]) {
    assert.deepEqual(who({ ...basic, allowMissing: true }, preset), { kind: "missing" });
  }
});

test("reads requests of pods with few fields", () => {
  assert.equal(optIn({ metadata: {} }), undefined);
  assert.equal(optIn({ metadata: { labels: { [LABEL.policy]: " webhooks " } } }), "webhooks");
  assert.equal(
    coverage({ metadata: {} }, () => undefined),
    "none",
  );
  assert.equal(mayIgnoreProxy({ metadata: {} }), undefined);
  assert.equal(
    coverage({ metadata: { labels: { [LABEL.policy]: "webhooks" } } }, () => ({
      marker: "webhooks@1",
      refused: false,
    })),
    "missed",
  );
  const listed = { injection: { initContainers: ["migrate"] } };
  const { warnings } = inject({ metadata: ASKS }, targetOf(listed));
  assert.equal(warnings.length, 2);
});

test("replaces a password that follows a missing URL", () => {
  const password = { name: PASSWORD_NAME, valueFrom: { secretKeyRef: { name: "passwords", key: "PROXY_PASSWORD" } } };
  const [url] = [`http://outrider:$(${PASSWORD_NAME})@${HOST}.:4750`];
  const rest = URL_NAMES.slice(1).map((name) => ({ name, value: url }));
  const others = env({ NO_PROXY: "", no_proxy: "", NODE_USE_ENV_PROXY: "1" });
  const { patch } = inject(podWith({ env: [password, ...rest, ...others] }), targetOf(BASIC));
  const edits = patch.filter(({ path }) => path.includes("/env"));
  assert.deepEqual(
    edits.map(({ op }) => op),
    ["remove", "add", "add"],
  );
  const [, first, second] = edits.map(({ path, value }) => [path, (value as { name: string } | undefined)?.name]);
  assert.deepEqual(
    [first, second],
    [
      ["/spec/containers/0/env/0", PASSWORD_NAME],
      ["/spec/containers/0/env/1", "HTTP_PROXY"],
    ],
  );
});

test("a password of the pod itself is a conflict only if the policy needs one", () => {
  const literal = { env: env({ [PASSWORD_NAME]: "secret" }) };
  assert.match(warnings(BASIC, literal)[0]!, new RegExp(`${PASSWORD_NAME} is already set`));
  assert.deepEqual(warnings({}, literal), []);
});

test("options of the JVM by reference concern only the preset Java", () => {
  const container = { env: [{ name: "JAVA_TOOL_OPTIONS", valueFrom: reference }] };
  assert.deepEqual(warnings({}, container), []);
  assert.match(warnings({ preset: "Java" }, container)[0]!, /JAVA_TOOL_OPTIONS is set by reference, so nothing/);
});

test("exclusions of the JVM concern only the preset Java", () => {
  for (const value of ["-Dhttp.nonProxyHosts=*", "-Dhttp.nonProxyHosts=*.svc"]) {
    const container = { env: env({ JAVA_TOOL_OPTIONS: value }) };
    assert.deepEqual(warnings({}, container), []);
    assert.equal(warnings({ preset: "Java" }, container).length, 1);
  }
});

test("NO_PROXY by reference fills the other case only if it is not set", () => {
  const set = { name: "no_proxy", value: "a.example" };
  const byReference = { name: "NO_PROXY", valueFrom: reference };
  const names = (container: Partial<Container>) =>
    injected({}, container).flatMap(({ name }) => (/no_proxy/i.test(name) ? [name] : []));
  assert.deepEqual(names({ env: [byReference, set] }), []);
  assert.deepEqual(names({ env: [byReference] }), ["no_proxy"]);
  const text = "container app: NO_PROXY is set by reference: hosts that it excludes bypass the proxy";
  assert.deepEqual(warnings({}, { env: [byReference] }), [text]);
  const more = { injection: { noProxy: ["b.example"] } };
  assert.deepEqual(warnings(more, { env: [byReference] }), [`${text}, and spec.injection.noProxy is not added`]);
});

test("a sender's own exclusions by reference are kept, unless Overwrite", () => {
  const container = { env: [{ name: "SVIX_NOPROXY", valueFrom: reference }] };
  const svix = (conflictPolicy: string) => ({
    preset: "Svix",
    injection: { noProxy: ["a.example"], conflictPolicy },
  });
  const own = (spec: object) => injected(spec, container, "10.96.3.4").filter(({ name }) => name === "SVIX_NOPROXY");
  assert.deepEqual(own(svix("Skip")), []);
  assert.deepEqual(warnings(svix("Skip"), container, "10.96.3.4"), [
    "container app: SVIX_NOPROXY is set by reference: hosts that it excludes bypass the proxy",
  ]);
  assert.deepEqual(own(svix("Overwrite")), [{ name: "SVIX_NOPROXY", value: "a.example" }]);
  const { patch } = inject(podWith({ env: env({ SVIX_NOPROXY: "" }) }), targetOf({ preset: "Svix" }, "10.96.3.4"));
  assert.ok(patch.every(({ op }) => op !== "remove"));
});

test("a preset adds only its own variables", () => {
  const names = (preset: string) =>
    injected({ preset, injection: { noProxy: ["a.example"] } }, {}).flatMap(({ name }) =>
      /^(node_use|no_|https?_)/i.test(name) ? [] : [name],
    );
  assert.deepEqual(names("Generic"), []);
  assert.deepEqual(names("Outpost"), ["DESTINATIONS_WEBHOOK_PROXY_URL"]);
  assert.deepEqual(names("Convoy"), ["CONVOY_SERVER_HTTP_HTTP_PROXY", "CONVOY_SERVER_HTTP_NO_PROXY"]);
});

test("an entry of NO_PROXY has a host, a port and brackets", () => {
  for (const entry of ["[::1]", "[fd00::1]:80", "203.0.0.0/16", "k8s.corp"])
    assert.ok(widens(entry, "k8s.corp"), entry);
  for (const entry of ["x[::1]", "[::1]x", "8.1.2.3/16"]) assert.ok(!widens(entry, "k8s.corp"), entry);
  assert.ok(!excludes("a:80b", "ab") && excludes("ab:80", "ab"));
});

test("a variable of blanks is not set", () => {
  assert.ok(!isSet({ name: "HTTP_PROXY", value: "  " }) && !isSet({ name: "HTTP_PROXY" }) && !isSet(undefined));
  assert.ok(isSet({ name: "HTTP_PROXY", value: " a " }) && isSet({ name: "HTTP_PROXY", valueFrom: reference }));
});

test("reads names and versions of images", () => {
  assert.deepEqual(imageOf({ name: "a", image: "convoy" }), { name: "convoy", tag: undefined });
  assert.deepEqual(imageOf({ name: "a", image: "a:1" }), { name: "a", tag: "1" });
  assert.deepEqual(imageOf({ name: "a", image: "r:5000/convoy:v1.2.3@sha256:0" }), { name: "convoy", tag: "v1.2.3" });
  assert.deepEqual(imageOf({ name: "a" }), { name: "", tag: undefined });
  const old = (image: string) => isOldConvoy({ name: "a", image });
  for (const tag of ["v26.3.5", "25.10.0", "v26.2.9", "v1.0.0-rc1"]) assert.ok(old(`convoy:${tag}`), tag);
  for (const tag of ["v26.3.6", "v26.3.10", "v26.10.0", "v27.0.0", "latest", "build-1.2.3"]) {
    assert.ok(!old(`convoy:${tag}`), tag);
  }
  assert.ok(!old("other:v1.0.0") && old("convoy-ee:v1.0.0"));
  assert.ok(!isConvoy({ name: "a", image: "not-convoy:1" }) && !isConvoy({ name: "a", image: "convoys:1" }));
});

const OPTIONS = { host: "h", port: 1, noProxy: [] as string[], overwrite: false };
const PROXY = "-Dhttp.proxyHost=h -Dhttp.proxyPort=1 -Dhttps.proxyHost=h -Dhttps.proxyPort=1";
const LOOPBACK = "-Dhttp.nonProxyHosts=localhost|127.*|[::1]";

test("options of the JVM that are complete stay as they are", () => {
  const options = (text: string, more: Partial<typeof OPTIONS> = {}) => javaOptions(text, { ...OPTIONS, ...more });
  const [overwrite, noProxy] = [true, ["10.0.0.1"]];
  for (const [text, more] of [
    [`${PROXY} -ea`, {}],
    [`${PROXY} -ea`, { overwrite }],
    [`-Dhttp.nonProxyHosts=a ${PROXY} -ea`, {}],
    [`${LOOPBACK}|10.0.0.1 ${PROXY} -ea`, { overwrite, noProxy }],
  ] as const) {
    assert.equal(options(text, more as Partial<typeof OPTIONS>), text);
  }
});

test("options of the JVM get the proxy once, behind all others", () => {
  const options = (text: string, more: Partial<typeof OPTIONS> = {}) => javaOptions(text, { ...OPTIONS, ...more });
  assert.equal(options(""), PROXY);
  assert.equal(options("-Xmx1g -Dhttp.proxyHost=squid -Dhttp.proxyPort=2 -ea"), `-Xmx1g -ea ${PROXY}`);
  assert.equal(options(`${PROXY} -Dhttp.proxyHost=h -ea`), `-ea ${PROXY}`);
  assert.equal(options(`${PROXY.replaceAll("=1", "=2")} -ea`), `-ea ${PROXY}`);
  assert.equal(options("-Xss1m -Dhttp.nonProxyHosts=a -ea", { overwrite: true }), `-Xss1m -ea ${PROXY}`);
  assert.equal(options(`${PROXY} -Dhttp.nonProxyHosts=a`, { overwrite: true }), PROXY);
  assert.equal(
    options("-Dhttp.nonProxyHosts=a", { overwrite: true, noProxy: ["10.0.0.1"] }),
    `${PROXY} ${LOOPBACK}|10.0.0.1`,
  );
});

test("entries of NO_PROXY become globs of the JVM", () => {
  const globs = (...noProxy: string[]) => javaOptions("", { ...OPTIONS, noProxy }).replace(`${PROXY} ${LOOPBACK}|`, "");
  assert.equal(globs("*"), "*");
  assert.equal(globs("10.0.0.1"), "10.0.0.1");
  assert.equal(globs("a.example"), "a.example|*.a.example");
  assert.equal(globs("10x.example", "web1"), "10x.example|*.10x.example|web1|*.web1");
  assert.equal(globs(".a.example", "*.b.example"), "*.a.example|*.b.example");
  assert.equal(globs("10.0.0.0/8", "a:80", "b"), "b|*.b");
});

test("reads the exclusions of the JVM", () => {
  const found = (list: string, ...noProxy: string[]) => exclusionsOf(`-ea -Dhttp.nonProxyHosts=${list}`, noProxy);
  assert.deepEqual(found(""), []);
  assert.deepEqual(exclusionsOf("-ea", []), []);
  assert.deepEqual(found("localhost|127.*||a"), ["a"]);
  assert.deepEqual(found('"a|b"'), ["a", "b"]);
  assert.deepEqual(found(`'a"b|c'`), ['a"b', "c"]);
  assert.deepEqual(found("10.*|10.1.*|10.1.2.*"), ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24"]);
  assert.deepEqual(found("x10.*|10.*.example|10.1.2.3.*"), ["x10.*", "10.*.example", "10.1.2.3.*"]);
  assert.deepEqual(found("a|*.a|b", "a"), ["b"]);
  const own = ownOf(targetOf({}), podWith({}));
  assert.ok(!hasOtherProxy("-Dhttp.proxyHost= -ea", own) && hasOtherProxy("-Dhttp.proxyHost=squid", own));
});

test("shortens long warnings and events", () => {
  const entry = (length: number) => `.${"a".repeat(length - 5)}.svc`;
  const messages = (length: number) => {
    const { warnings, events } = inject(podWith({}), targetOf({ injection: { noProxy: [entry(length)] } }));
    return [warnings.find((text) => text.includes("noProxy"))!, events.at(-1)!.message];
  };
  const full = (length: number) => MAX_WARNING_CHARS - messages(10)[0]!.length + length;
  const exact = messages(full(10))[0]!;
  assert.equal(exact.length, MAX_WARNING_CHARS);
  assert.ok(exact.endsWith("use exact hosts"), exact);
  const [longer] = messages(full(10) + 1);
  assert.equal(longer!.length, MAX_WARNING_CHARS);
  assert.ok(longer!.endsWith("…"), longer);
  const [warning, event] = messages(2000);
  assert.equal(warning!.length, MAX_WARNING_CHARS);
  assert.ok(event!.length <= 1024 && event!.endsWith("…"));
});

test("prints at most 15 warnings", () => {
  const containers = Array.from({ length: 20 }, (_, i) => ({
    name: `c${i}`,
    env: env({ HTTP_PROXY: "http://squid:1" }),
  }));
  const { warnings, events } = inject({ metadata: ASKS, spec: { containers } }, targetOf({}));
  assert.equal(warnings.length, 15);
  assert.equal(events.length, 20);
});

test("a pod that is not injected gets no notes about the policy", () => {
  const pod = podWith({});
  pod.spec!.hostNetwork = true;
  const { warnings } = inject(pod, targetOf({ preset: "Svix", ...BASIC }));
  assert.equal(warnings.length, 1);
  assert.match(warnings[0]!, /the host network/);
});

test("warns of exclusions of the whole cluster, whatever its domain", () => {
  const of = (host: string, ...noProxy: string[]) => warningsIn({ ...targetOf({ injection: { noProxy } }), host }, {});
  const host = "webhooks-egress.convoy.svc.k8s.corp";
  assert.match(of(host, "k8s.corp")[0]!, /through k8s\.corp; use exact hosts$/);
  assert.match(of(host, "shop.svc.k8s.corp")[0]!, /through shop\.svc\.k8s\.corp;/);
  assert.deepEqual(of(host, "orders.shop.svc.k8s.corp"), []);
  assert.deepEqual(of(HOST, "k8s.corp"), []);
});

const convoy = (values: Record<string, string>, more: Partial<Container> = {}) => ({
  image: "getconvoy/convoy:v26.7.3",
  env: env(values),
  ...more,
});
const isRule = (text: string) => /ip-rules/.test(text);

test("warns of ip-rules of Convoy that reject the address of the proxy", () => {
  const rules = (
    values: Record<string, string>,
    clusterIP: string | undefined = "10.96.3.4",
    extra: Container["env"] = [],
  ) => {
    const flags = env({ CONVOY_ENABLE_FEATURE_FLAG: "ip-rules", ...values });
    return warnings({ preset: "Convoy" }, convoy({}, { env: [...flags, ...extra] }), clusterIP).filter(isRule);
  };
  const [allow, block] = ["CONVOY_DISPATCHER_ALLOW_LIST", "CONVOY_DISPATCHER_BLOCK_LIST"];
  assert.deepEqual(rules({}), []);
  assert.deepEqual(rules({ [allow]: "192.168.0.0/16, 10.96.0.0/12" }), []);
  assert.deepEqual(rules({ [allow]: "::/0,10.0.0.0/8", [block]: "192.168.0.0/16" }), []);
  assert.equal(rules({ [allow]: "192.168.0.0/16" }).length, 1);
  assert.equal(rules({ [allow]: "any,10.0.0.0/8" }).length, 1);
  assert.equal(rules({ [block]: "192.168.0.0/16,10.96.3.4/32" }).length, 1);
  assert.equal(rules({}, "10.96.3.4", [{ name: allow, valueFrom: reference }]).length, 1);
  assert.equal(rules({}, "10.96.3.4", [{ name: block, valueFrom: reference }]).length, 1);
  assert.match(rules({ [block]: "::/0" }, "fd00::1")[0]!, /; allow fd00::1\/128 in /);
  const unknown = targetOf({ preset: "Convoy" });
  const container = convoy({ CONVOY_ENABLE_FEATURE_FLAG: "ip-rules" });
  assert.match(warningsIn(unknown, container).find(isRule)!, /; allow the proxy's address in /);
  unknown.policy.status = {};
  assert.match(warningsIn(unknown, container).find(isRule)!, /; allow the proxy's address in /);
});

test("warns of exclusions that a licensed older Convoy ignores", () => {
  const notes = (tag: string, noProxy: string[], values: Record<string, string> = { CONVOY_LICENSE_KEY: "k" }) =>
    warnings({ preset: "Convoy", injection: { noProxy } }, { image: `convoy:${tag}`, env: env(values) }).filter(
      (text) => /ignores NO_PROXY/.test(text),
    ).length;
  assert.equal(notes("v26.3.5", ["a.example"]), 1);
  assert.equal(notes("v26.3.5", []), 0);
  assert.equal(notes("v26.3.6", ["a.example"]), 0);
  assert.equal(notes("v26.3.5", ["a.example"], {}), 0);
});

test("warns of traces of Convoy that the policy does not allow", () => {
  const traces = (url: string, spec: object = {}, preset = "Convoy") =>
    warnings({ preset, ...spec }, convoy({ CONVOY_OTEL_COLLECTOR_URL: url })).flatMap(
      (text) => /traces to (\S+) go through the proxy/.exec(text)?.[1] ?? [],
    );
  for (const url of ["otel", "otel:4317", "http://otel:4317/path", "HTTP://u:p@OTEL:4317"]) {
    assert.deepEqual(traces(url), ["otel"], url);
  }
  assert.deepEqual(traces("http://[fd00::1]:4317"), ["fd00::1"]);
  assert.deepEqual(traces(""), []);
  assert.deepEqual(traces("otel", {}, "Generic"), []);
  assert.deepEqual(traces("otel", { injection: { noProxy: ["otel"] } }), []);
  const opens = (hosts: string[] | undefined, ...cidrs: string[]) => ({
    allow: [{ ...(hosts && { hosts }), cidrs, ports: [4317] }],
  });
  assert.deepEqual(traces("otel.shop:4317", opens(["otel.shop"], "10.0.0.0/8")), []);
  assert.deepEqual(traces("otel.shop", opens(["otel.shop"], "10.0.0.0/8")), []);
  assert.deepEqual(traces("otel.shop:4318", opens(["otel.shop"], "10.0.0.0/8")), ["otel.shop"]);
  assert.deepEqual(traces("10.0.0.5:4317", opens(undefined, "10.0.0.0/8")), []);
  assert.deepEqual(traces("10.0.0.5:4317", opens(undefined, "192.168.0.0/16")), ["10.0.0.5"]);
  assert.deepEqual(traces("10.0.0.5:4317", opens(["10.0.0.5.example"], "10.0.0.0/8")), ["10.0.0.5"]);
  assert.deepEqual(traces("10.0.0.5:4317", opens(["*"], "10.0.0.0/8")), ["10.0.0.5"], "names only");
  assert.deepEqual(traces("otel", { ports: ["9-8"] }), ["otel"], "the policy is not valid");
});

test("warns that a licensed Convoy needs its licence host", () => {
  const notes = (spec: object) => warnings(spec, convoy({})).filter((text) => /licensed Convoy/.test(text)).length;
  const denies = { defaultAction: "Deny", allow: [{ hosts: ["a.example"] }] };
  assert.equal(notes({ preset: "Convoy", ...denies }), 1);
  assert.equal(notes({ preset: "Convoy" }), 0);
  assert.equal(notes(denies), 0);
  assert.equal(notes({ preset: "Convoy", ports: ["9-8"] }), 0, "the policy is not valid");
});

test("warns of a label and an annotation only if they differ", () => {
  const notes = (label: string) => {
    const metadata = { labels: { [LABEL.policy]: label }, annotations: { [LABEL.policy]: "webhooks" } };
    return inject(podWith({}, metadata), targetOf({})).warnings.length;
  };
  assert.deepEqual([notes("webhooks"), notes("other")], [0, 1]);
});

test("warns that Svix needs the address of the Service", () => {
  const target = targetOf({ preset: "Svix" });
  const missing = /the Service has no address yet/;
  assert.match(warningsIn(target, {})[0]!, missing);
  target.policy.status = {};
  assert.match(warningsIn(target, {})[0]!, missing);
  assert.deepEqual(warnings({ preset: "Svix" }, {}, "10.96.3.4"), []);
});
