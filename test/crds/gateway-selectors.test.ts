import assert from "node:assert/strict";
import { globSync, readFileSync } from "node:fs";
import { basename } from "node:path";
import { test } from "node:test";
import { LABEL } from "../../operator/api/names.ts";
import { podLabels } from "../../operator/fleet/metadata.ts";
import { SHARED } from "../../operator/fleet/slots.ts";
import { providerOf } from "../../operator/providers/index.ts";
import { toolNamed, toolVersion } from "../cluster/tools.ts";
import { GATEWAY_EXAMPLES, type GatewayExample, type GatewayObject, isTested, root } from "./gateway-examples.ts";

/** Whether the examples of gateways fit together: the gateway selects the fleet, and has the addresses of the policy. */

interface LabelSelector {
  matchLabels: Record<string, string>;
}

const example = (name: string): GatewayExample =>
  GATEWAY_EXAMPLES.find(({ file }) => basename(file, ".yaml") === name) ?? assert.fail(name);
const objectOf = ({ objects }: GatewayExample, kind: string): GatewayObject =>
  objects.find((object) => object.kind === kind) ?? assert.fail(kind);

/** Labels and annotations of the proxy pods. */
function podsOf({ policy }: GatewayExample): { labels: Record<string, string>; annotations: Record<string, string> } {
  const provided = providerOf(policy.spec)?.podAnnotations(policy.spec);
  return { labels: podLabels(policy, SHARED), annotations: { ...policy.spec.proxy?.podAnnotations, ...provided } };
}

/** Checks that a selector selects the fleet of the policy, and no other fleet. */
function assertSelects(one: GatewayExample, { matchLabels }: LabelSelector): void {
  const { labels } = podsOf(one);
  assert.equal(matchLabels[LABEL.fleet], one.policy.metadata.name, one.file);
  for (const [key, value] of Object.entries(matchLabels)) assert.equal(labels[key], value, `${one.file}: ${key}`);
}

const namespaceSelector = ({ policy }: GatewayExample): LabelSelector => ({
  matchLabels: { [LABEL.namespace]: policy.metadata.namespace! },
});
const addressesOf = ({ policy }: GatewayExample): string[] => policy.spec.staticIPs!.map(({ address }) => address);

/** Addresses of an IPv4 network of at most 256 addresses. */
function addressesIn(cidr: string): string[] {
  const [, prefix, first, length] = /^(\d+\.\d+\.\d+\.)(\d+)\/(\d+)$/.exec(cidr)!;
  return Array.from({ length: 2 ** (32 - Number(length)) }, (_, i) => `${prefix}${Number(first) + i}`);
}

test("Cilium's policy selects the fleet, and has its addresses", () => {
  const cilium = example("cilium");
  const spec = objectOf(cilium, "CiliumEgressGatewayPolicy").spec as {
    selectors: { podSelector: LabelSelector }[];
    egressGateway: { egressIP: string };
    egressGateways: { egressIP: string }[];
  };
  const [{ podSelector }] = spec.selectors as [{ podSelector: LabelSelector }];
  const { "io.kubernetes.pod.namespace": namespace, ...matchLabels } = podSelector.matchLabels;
  assert.equal(namespace, cilium.policy.metadata.namespace);
  assertSelects(cilium, { matchLabels });
  assert.deepEqual(
    spec.egressGateways.map(({ egressIP }) => egressIP),
    addressesOf(cilium),
  );
  assert.deepEqual(spec.egressGateway, spec.egressGateways[0]);
});

test("the EgressIP of OVN-Kubernetes selects the fleet, and has its addresses", () => {
  const ovn = example("ovn-kubernetes");
  const { spec } = objectOf(ovn, "EgressIP");
  assertSelects(ovn, spec.podSelector as LabelSelector);
  assert.deepEqual(spec.namespaceSelector, namespaceSelector(ovn));
  assert.deepEqual(spec.egressIPs, addressesOf(ovn));
});

test("Antrea's Egress selects the fleet, and its pool has the address", () => {
  const antrea = example("antrea");
  const pool = objectOf(antrea, "ExternalIPPool");
  const { spec } = objectOf(antrea, "Egress");
  const appliedTo = spec.appliedTo as { podSelector: LabelSelector; namespaceSelector: LabelSelector };
  assertSelects(antrea, appliedTo.podSelector);
  assert.deepEqual(appliedTo.namespaceSelector, namespaceSelector(antrea));
  assert.deepEqual([spec.egressIP], addressesOf(antrea));
  assert.equal(spec.externalIPPool, pool.metadata.name);
  assert.deepEqual(pool.spec.ipRanges, [{ start: spec.egressIP, end: spec.egressIP }]);
});

test("the proxies name the gateway configuration of AKS in their namespace", () => {
  const aks = example("aks-static-egress-gateway");
  const { metadata } = objectOf(aks, "StaticGatewayConfiguration");
  assert.equal(metadata.namespace, aks.policy.metadata.namespace);
  assert.equal(podsOf(aks).annotations["kubernetes.azure.com/static-gateway-configuration"], metadata.name);
  assert.deepEqual(addressesOf(aks), addressesIn("203.0.113.4/30"));
});

test("the proxies select the egress gateways of Calico Enterprise", () => {
  const calico = example("calico-enterprise");
  const pool = objectOf(calico, "IPPool");
  const { metadata, spec } = objectOf(calico, "EgressGateway");
  const { labels } = (spec.template as { metadata: { labels: Record<string, string> } }).metadata;
  const { annotations } = podsOf(calico);
  const [[key, value]] = Object.entries(labels) as [[string, string]];
  assert.equal(annotations["egress.projectcalico.org/selector"], `${key} == '${value}'`);
  assert.equal(
    annotations["egress.projectcalico.org/namespaceSelector"],
    `projectcalico.org/name == '${metadata.namespace}'`,
  );
  assert.deepEqual(spec.ipPools, [{ name: pool.metadata.name }]);
  assert.deepEqual(addressesOf(calico), addressesIn(pool.spec.cidr as string));
});

test("the proxies request addresses of Calico's pool", () => {
  const calico = example("calico-bgp");
  const pool = objectOf(calico, "IPPool");
  assert.deepEqual(JSON.parse(podsOf(calico).annotations["cni.projectcalico.org/ipv4pools"]!), [pool.metadata.name]);
  const addresses = addressesIn(pool.spec.cidr as string);
  assert.deepEqual(addressesOf(calico), addresses);
  assert.ok(calico.policy.spec.proxy!.replicas! < addresses.length);
});

test("every gateway example verifies its addresses", () => {
  for (const { file, policy } of GATEWAY_EXAMPLES) assert.ok(policy.spec.verification !== undefined, file);
});

test("an example without a tested CRD says so", () => {
  for (const one of GATEWAY_EXAMPLES.filter(({ objects }) => objects.length > 0)) {
    const text = readFileSync(`${root}/${one.file}`, "utf8").replace(/\n# /g, " ");
    assert.equal(/Not tested: written from the documentation/.test(text), !isTested(one), one.file);
  }
});

test("every gateway example has a page in docs/providers", () => {
  const pages = globSync("docs/providers/*.md", { cwd: root }).map((page) => readFileSync(`${root}/${page}`, "utf8"));
  for (const { file } of GATEWAY_EXAMPLES) {
    assert.ok(
      pages.some((page) => page.includes(`(../../${file})`)),
      `no page links ${file}`,
    );
  }
});

test("the pages name the pinned version of Cilium", () => {
  const version = toolVersion(toolNamed("cilium-crd")).slice(1);
  for (const page of ["README.md", "cilium.md"]) {
    const text = readFileSync(`${root}/docs/providers/${page}`, "utf8");
    assert.match(text, new RegExp(`CRD of Cilium ${version.replaceAll(".", "\\.")}\\b`), page);
  }
});
