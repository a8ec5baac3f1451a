import assert from "node:assert/strict";
import { test } from "node:test";
import type { EgressPolicy } from "../../operator/api/egresspolicy.ts";
import type { Node, Pod } from "../../operator/api/objects.ts";
import { providerOf } from "../../operator/providers/index.ts";
import type { Facts } from "../../operator/reconcile/facts/facts.ts";
import { judgeNetworkPolicies, networkPolicies } from "../../operator/reconcile/network/network-policies.ts";
import { differs, stamp } from "../../operator/reconcile/objects/compare.ts";
import { withDefaults } from "../harness/defaults.ts";
import { ip } from "../policy/evaluator.ts";
import { assertBlocks, lets } from "./np-evaluator.ts";

/** Connections that the NetworkPolicies of policy `webhooks` in `convoy` allow, and their condition. */

interface Given {
  nodes?: Facts["nodes"];
  pods?: { hostNetwork?: boolean; ip?: string; ports?: [proxy: number, admin: number, external?: number] }[];
  adminFrom?: readonly string[] | undefined;
  problem?: Parameters<typeof judgeNetworkPolicies>[3];
}

function made(spec: object, given: Given = {}) {
  const { nodes = [], pods = [], problem } = given;
  const adminFrom = "adminFrom" in given ? given.adminFrom : ["outrider-system"];
  const metadata = { name: "webhooks", namespace: "convoy", uid: "1" };
  const policy = { apiVersion: "v1", kind: "EgressPolicy", metadata, spec: withDefaults(spec) } as EgressPolicy;
  const proxies = pods.map(({ hostNetwork = false, ip, ports: [proxy, admin, external] = [4750, 9750, undefined] }) => {
    const ports = [
      { name: "proxy", containerPort: proxy },
      { name: "admin", containerPort: admin },
      ...(external === undefined ? [] : [{ name: "external", containerPort: external }]),
    ];
    const pod: Pod = {
      apiVersion: "v1",
      kind: "Pod",
      metadata: { name: "p" },
      spec: { hostNetwork, containers: [{ ports }] },
    };
    return { pod, ips: ip === undefined ? [] : [ip] };
  });
  const facts = {
    policy,
    blockedCIDRs: [],
    proxies,
    nodes: "nodes" in given ? given.nodes : nodes,
  } as unknown as Facts;
  const provider = providerOf(policy.spec)!;
  const result = networkPolicies(facts, policy.spec, provider.shape, adminFrom);
  for (const object of result.objects) assertBlocks(object);
  const named = (name: string) => result.objects.find((object) => object.metadata.name === name)!;
  return {
    names: result.objects.map((object) => object.metadata.name),
    proxy: named("webhooks-egress"),
    senders: named("webhooks-egress-senders"),
    finding: judgeNetworkPolicies(facts, { spec: policy.spec, provider }, result, problem),
  };
}

const pod = (label: string, value = "webhooks", namespace = "convoy") => ({
  pod: { [`egress.outrider.dev/${label}`]: value },
  namespace,
});
const node = (
  name: string,
  addresses: [string, string][],
  rest: Partial<Node["spec"]> & { labels?: object } = {},
): Node => {
  const { labels, ...spec } = rest;
  return {
    apiVersion: "v1",
    kind: "Node",
    metadata: { name, labels: { ...labels } },
    spec,
    status: { addresses: addresses.map(([type, address]) => ({ type, address })) },
  };
};
const KUBEVIP = {
  nat: { provider: "KubeVIP", kubeVIP: {} },
  staticIPs: [{ address: "203.0.113.10" }],
  authentication: { mode: "Basic", secretRef: { name: "passwords" } },
};
const SENDERS = { networkPolicy: { senders: "Enabled" } };

test("only senders of the policy reach the proxy port", () => {
  const { proxy, names } = made({});
  assert.deepEqual(names, ["webhooks-egress"]);
  const asked: [object, boolean][] = [
    [pod("injected"), true],
    [pod("policy"), true],
    [pod("injected", "other"), false],
    [pod("injected", "webhooks", "elsewhere"), false],
    [{ pod: {}, namespace: "convoy" }, false],
    [{ pod: {}, namespace: "outrider-system" }, false],
  ];
  for (const [party, wanted] of asked) {
    assert.equal(lets(proxy, "from", party as never, 4750), wanted, JSON.stringify(party));
    assert.equal(lets(proxy, "from", party as never, 4749), false);
  }
  assert.equal(lets(proxy, "from", ip("10.0.0.1"), 4750), false);
});

test("only the operator and metrics readers reach the admin port", () => {
  const from = (namespace: string) => ({ pod: {}, namespace });
  const { proxy } = made({}, { adminFrom: ["monitoring", "outrider-system"] });
  assert.deepEqual(
    ["outrider-system", "monitoring", "convoy"].map((namespace) => lets(proxy, "from", from(namespace), 9750)),
    [true, true, false],
  );
  assert.equal(lets(proxy, "from", pod("injected"), 9750), false);
  assert.equal(lets(proxy, "from", ip("10.0.0.1"), 9750), false);
  const open = made({}, { adminFrom: undefined }).proxy;
  assert.equal(lets(open, "from", ip("10.0.0.1"), 9750), true);
  assert.equal(lets(open, "from", ip("10.0.0.1"), 4750), false);
});

test("the proxies do not reach new ranges of the cluster", () => {
  const metadata = { name: "webhooks", namespace: "convoy", uid: "1" };
  const policy = { apiVersion: "v1", kind: "EgressPolicy", metadata, spec: withDefaults({}) } as EgressPolicy;
  const reaches = (blockedCIDRs: readonly string[]) => {
    const facts = { policy, blockedCIDRs, proxies: [], nodes: [] } as unknown as Facts;
    const { objects } = networkPolicies(facts, policy.spec, providerOf(policy.spec)!.shape, undefined);
    return lets(objects[0]!, "to", ip("34.118.0.1"), 443);
  };
  assert.equal(reaches([]), true);
  assert.equal(reaches(["34.118.0.0/16"]), false);
  assert.equal(reaches([]), true);
});

test("old and new ports are allowed while old proxies run", () => {
  const spec = { proxy: { port: 5000, adminPort: 9000 }, ...SENDERS };
  const during = made(spec, { pods: [{ ports: [4750, 9750] }, { ports: [5000, 9000] }] });
  const after = made(spec, { pods: [{ ports: [5000, 9000] }] });
  for (const [{ proxy, senders }, old] of [
    [during, true],
    [after, false],
  ] as const) {
    for (const [port, wanted] of [
      [5000, true],
      [4750, old],
    ] as const) {
      assert.equal(lets(proxy, "from", pod("injected"), port), wanted);
      assert.equal(lets(senders, "to", pod("fleet"), port), wanted);
    }
    assert.equal(lets(proxy, "from", { pod: {}, namespace: "outrider-system" }, 9750), old);
    assert.equal(lets(proxy, "from", { pod: {}, namespace: "outrider-system" }, 9000), true);
  }
});

test("clients outside of the cluster reach only the port for them", () => {
  const external = { sourceRanges: ["198.51.100.0/24"], proxyProtocolFrom: ["10.9.0.1/32"] };
  const spec = {
    authentication: { mode: "TLS" },
    proxy: { tls: { secretRef: { name: "tls" } }, external },
    ...SENDERS,
  };
  const rest = { sourceRanges: ["198.51.100.0/24"] };
  const { proxy, senders } = made(spec);
  const direct = made({ ...spec, proxy: { ...spec.proxy, external: rest } }).proxy;
  const inside = made({ ...spec, proxy: { tls: spec.proxy.tls } }, { pods: [{ ports: [4750, 9750, 4752] }] }).proxy;
  const moved = made(
    { ...spec, proxy: { ...spec.proxy, external: { ...rest, port: 5000 } } },
    { pods: [{ ports: [4750, 9750, 4752] }] },
  ).proxy;
  const [client, balancer, stranger] = [ip("198.51.100.7"), ip("10.9.0.1"), ip("198.51.101.7")];
  assert.equal(lets(proxy, "from", client, 4752), true);
  assert.equal(lets(proxy, "from", balancer, 4752), true);
  assert.equal(lets(direct, "from", balancer, 4752), false);
  assert.equal(lets(direct, "from", client, 4752), true);
  assert.equal(lets(inside, "from", client, 4752), false, "the field was removed, and old pods still listen");
  for (const port of [4752, 5000]) assert.equal(lets(moved, "from", client, port), true, `${port} in the roll-out`);
  // Old pods listen without TLS, or with their admin port, on the new port of external clients.
  for (const port of [4750, 9750]) {
    const taken = made(
      { ...spec, proxy: { ...spec.proxy, port: 4760, adminPort: 9760, external: { ...rest, port } } },
      { pods: [{ ports: [4750, 9750] }] },
    ).proxy;
    for (const one of [port, 4751, 80]) assert.equal(lets(taken, "from", client, one), false, `${one} of old pods`);
  }
  for (const port of [4750, 4751, 9750, 5000]) {
    for (const party of [client, balancer]) assert.equal(lets(proxy, "from", party, port), false, `${port}`);
  }
  for (const party of [stranger, pod("injected"), pod("policy"), { pod: {}, namespace: "outrider-system" }]) {
    assert.equal(lets(proxy, "from", party, 4752), false);
  }
  assert.equal(lets(senders, "to", pod("fleet"), 4752), false, "senders use the other ports");
});

test("senders reach only the fleet, DNS and additionalEgress", () => {
  const stores = { podSelector: { matchLabels: { app: "postgres" } } };
  const additionalEgress = [
    { to: [stores], ports: [{ port: 5432 }] },
    { to: [{ ipBlock: { cidr: "10.20.0.0/16", except: ["10.20.30.0/24"] } }] },
  ];
  const { senders, names } = made({ networkPolicy: { senders: "Enabled", additionalEgress } });
  assert.deepEqual(names, ["webhooks-egress", "webhooks-egress-senders"]);
  const { podSelector } = (senders as unknown as { spec: { podSelector: object } }).spec;
  assert.deepEqual(podSelector, { matchLabels: { "egress.outrider.dev/injected": "webhooks" } });
  const out = (party: Parameters<typeof lets>[2], port: number, protocol?: "UDP") =>
    lets(senders, "to", party, port, protocol);
  assert.ok(out(pod("fleet"), 4750));
  assert.ok(!out(pod("fleet"), 9750));
  assert.ok(!out(pod("fleet", "other"), 4750));
  assert.ok(!out(pod("fleet", "webhooks", "elsewhere"), 4750));
  assert.ok(out({ pod: { app: "postgres" }, namespace: "convoy" }, 5432));
  assert.ok(!out({ pod: { app: "postgres" }, namespace: "convoy" }, 5433));
  assert.ok(out(ip("10.20.0.1"), 1) && !out(ip("10.20.30.1"), 1));
  for (const port of [53, 5353]) assert.ok(out(ip("169.254.20.10"), port, "UDP") && out(ip("10.96.0.10"), port));
  assert.ok(!out(ip("8.8.8.8"), 443) && !out(ip("10.0.0.1"), 443));
  assert.ok(lets(senders, "from", ip("10.0.0.1"), 8080), "ingress is not restricted");
});

test("senders reach the nodes that can run a proxy", () => {
  const taint = (key: string, effect = "NoSchedule") => [{ key, effect }];
  const nodes = [
    node(
      "a",
      [
        ["InternalIP", "10.0.0.1"],
        ["ExternalIP", "198.51.100.1"],
        ["Hostname", "a"],
      ],
      { labels: { role: "egress" } },
    ),
    node(
      "b",
      [
        ["InternalIP", "10.0.0.2"],
        ["InternalIP", "fd00::2"],
      ],
      { labels: { role: "egress" }, unschedulable: true },
    ),
    node("c", [["InternalIP", "10.0.0.4"]], {
      labels: { role: "egress" },
      taints: taint("node.kubernetes.io/not-ready", "NoExecute"),
    }),
    node("d", [["InternalIP", "10.0.0.8"]], { labels: { role: "egress" }, taints: taint("gpu") }),
    node("e", [["InternalIP", "10.0.0.16"]]),
    node("f", [["ExternalIP", "198.51.100.6"]], { labels: { role: "egress" } }),
  ];
  const spec = { ...KUBEVIP, ...SENDERS, proxy: { port: 5000, nodeSelector: { role: "egress" } } };
  const { names, senders } = made(spec, { nodes, pods: [{ hostNetwork: true, ip: "10.0.0.32", ports: [5000, 9750] }] });
  assert.deepEqual(names, ["webhooks-egress-senders"]);
  const reached = ["10.0.0.1", "10.0.0.2", "fd00::2", "10.0.0.4", "198.51.100.6", "10.0.0.32"];
  const closed = ["10.0.0.8", "10.0.0.16", "198.51.100.1", "10.0.0.3", "8.8.8.8"];
  for (const address of reached) assert.ok(lets(senders, "to", ip(address), 5000), address);
  for (const address of closed) assert.ok(!lets(senders, "to", ip(address), 5000), address);
  assert.ok(!lets(senders, "to", ip("10.0.0.1"), 443));
  const tolerant = { ...spec, proxy: { ...spec.proxy, tolerations: [{ key: "gpu", operator: "Exists" }] } };
  assert.ok(lets(made(tolerant, { nodes }).senders, "to", ip("10.0.0.8"), 5000));
});

test("senders reach old slots during a migration", () => {
  const { senders } = made(SENDERS, { pods: [{ hostNetwork: true, ip: "10.0.0.7" }, { ip: "10.244.0.9" }] });
  assert.ok(lets(senders, "to", ip("10.0.0.7"), 4750));
  assert.ok(!lets(senders, "to", ip("10.244.0.9"), 4750), "pods are selected by label");
});

const effect = "(no effect unless the network plugin enforces NetworkPolicies)";
const unbound =
  "the proxies have no NetworkPolicy, since they use the networks of nodes, where it would have no effect";
const huge = Array.from({ length: 64 }, () => ({
  to: Array.from({ length: 64 }, (_, i) => ({
    podSelector: { matchLabels: { [`${"k".repeat(200)}/${i}`]: "v".repeat(63) } },
  })),
}));
for (const [what, spec, given, expected] of [
  ["both", SENDERS, {}, ["True", "Applied", `webhooks-egress and webhooks-egress-senders are applied ${effect}`]],
  ["the proxies' alone", {}, {}, ["True", "Applied", `webhooks-egress is applied ${effect}`]],
  [
    "the senders' alone",
    { networkPolicy: { proxy: "Disabled", senders: "Enabled" } },
    {},
    ["True", "Applied", `webhooks-egress-senders is applied ${effect}`],
  ],
  [
    "none",
    { networkPolicy: { proxy: "Disabled" } },
    {},
    ["Unknown", "NotRequested", "spec.networkPolicy: proxy and senders are Disabled"],
  ],
  ["on nodes' networks", KUBEVIP, {}, ["Unknown", "HostNetwork", unbound]],
  [
    "on nodes' networks, senders",
    { ...KUBEVIP, ...SENDERS },
    {},
    ["True", "Applied", `webhooks-egress-senders is applied ${effect}; ${unbound}`],
  ],
  [
    "on nodes' networks that are not watched",
    { ...KUBEVIP, ...SENDERS },
    { nodes: undefined },
    [
      "True",
      "Applied",
      `webhooks-egress-senders is applied ${effect}; ${unbound}; the operator does not watch nodes (--discover-cidrs off), so senders reach only nodes that run a proxy now`,
    ],
  ],
  [
    "an obstacle",
    {},
    { problem: { reason: "NameTaken", message: "it is theirs" } },
    ["False", "NameTaken", "it is theirs"],
  ],
  [
    "more additional egress than fits",
    { networkPolicy: { senders: "Enabled", additionalEgress: huge } },
    {},
    [
      "False",
      "TooLarge",
      /^spec\.networkPolicy\.additionalEgress: the senders' NetworkPolicy would have \d+ bytes; the limit is 524288/,
    ],
  ],
] as const) {
  test(`NetworkPolicyApplied: ${what}`, () => {
    const { status, reason, message } = made(spec, given as Given).finding;
    assert.deepEqual([status, reason], [expected[0], expected[1]]);
    if (typeof expected[2] === "string") assert.equal(message, expected[2]);
    else assert.match(message, expected[2]);
  });
}

type Edited = { spec: Record<string, Record<string, Record<string, unknown>[]>[]> };
for (const [what, edit] of [
  ["a port more", ({ spec }: Edited) => spec.ingress![0]!.ports!.push({ protocol: "TCP", port: 22 })],
  ["a range of a port", ({ spec }: Edited) => Object.assign(spec.ingress![0]!.ports![0]!, { endPort: 9999 })],
  ["a selector more", ({ spec }: Edited) => Object.assign(spec.ingress![0]!.from![0]!, { namespaceSelector: {} })],
  ["a peer more", ({ spec }: Edited) => spec.egress![1]!.to!.push({ ipBlock: { cidr: "10.0.0.0/8" } })],
  ["a rule more", ({ spec }: Edited) => spec.egress!.push({})],
  ["no peers", ({ spec }: Edited) => Object.assign(spec.ingress![0]!, { from: undefined })],
  ["an exception less", ({ spec }: Edited) => (spec.egress![1]!.to![0]!.ipBlock as { except: string[] }).except.pop()],
  ["another selector", ({ spec }: Edited) => Object.assign(spec.podSelector!, { matchLabels: { a: "b" } })],
] as const) {
  test(`detects an edit: ${what}`, () => {
    const applied = stamp(made(SENDERS).proxy);
    const stored = structuredClone(applied);
    assert.equal(differs(stored, applied), false);
    edit(stored as unknown as Edited);
    assert.equal(differs(stored, applied), true);
  });
}

test("detects added ingress and ignores added labels", () => {
  const applied = stamp(made(SENDERS).senders) as Edited & ReturnType<typeof stamp>;
  const stored = structuredClone(applied);
  // The API server leaves out what is empty.
  delete stored.spec.ingress;
  stored.metadata.labels = { ...stored.metadata.labels, team: "payments" };
  assert.equal(differs(stored, applied), false);
  stored.spec.ingress = [{}];
  assert.equal(differs(stored, applied), true);
});
