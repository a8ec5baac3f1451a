import assert from "node:assert/strict";
import { test } from "node:test";
import type { EgressPolicySpec } from "../../operator/api/egresspolicy.ts";
import { childName, LABEL } from "../../operator/api/names.ts";
import type { Deployment, Service } from "../../operator/api/objects.ts";
import { isOpen, type ProxyFacts } from "../../operator/fleet/proxy-status.ts";
import { matches } from "../../operator/reconcile/objects/service.ts";
import { randomFrom } from "./random.ts";
import {
  A,
  B,
  C,
  edited,
  empty,
  MINUTE,
  NAME,
  open,
  pending,
  plan,
  podOf,
  retiring,
  rolledOut,
  specOf,
  stampOf,
  type World,
} from "./worlds.ts";

/**
 * Random edits, answers, losses and operator restarts. A reconcile never takes away the last endpoint while the client
 * Service has endpoints of several Deployments, and every fleet settles once its proxies answer.
 */

const RUNS = 10;
const STEPS = 40;
const SETTLE = 40;
const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31));
let random = randomFrom(seed);
const pick = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)]!;
const chance = (share: number) => random() < share;

function randomSpec(settling = false): EgressPolicySpec {
  const provider = pick(["External", "NodeAddress", "KubeVIP"] as const);
  const all = [A, B, C].filter(() => chance(0.7));
  const ips = all.map((address) => {
    if (chance(0.2)) return retiring(address);
    return chance(0.1) ? pending(address) : address;
  });
  // A fleet without an Active address keeps its old proxies.
  const some = settling && !ips.some((ip) => typeof ip === "string") ? [...ips.slice(1), pick([A, B, C])] : ips;
  const proxy = { ...(chance(0.5) ? edited : {}), ...(chance(0.2) ? { adminPort: 9751 } : {}) };
  const unique = new Map(some.map((ip) => [typeof ip === "string" ? ip : ip.address, ip]));
  return specOf(provider, [...unique.values()], proxy);
}

/** Endpoints by Deployment that take requests. A proxy that does not answer is open. */
function endpoints({ proxies, services }: World, spec: EgressPolicySpec): Set<string> {
  const selector = services.get(childName.fleet(NAME))?.spec?.selector;
  const found = proxies.filter(
    ({ ready, status, pod }) =>
      selector !== undefined &&
      ready &&
      (status === undefined || isOpen(status, spec)) &&
      matches(selector, pod.metadata.labels),
  );
  return new Set(found.map(({ slot }) => slot));
}

/** The world after the writes of a reconcile, before any new pod is ready. */
function written(world: World, spec: EgressPolicySpec): World {
  const { desired } = plan(world, spec);
  const next: World = {
    ...world,
    deployments: new Map(world.deployments),
    services: new Map(world.services),
    published: desired!.published.json,
  };
  const { correct, retire, clean } = desired!.round.labels;
  for (const { pod, labels } of [...correct, ...retire, ...clean]) {
    next.proxies = next.proxies.map((proxy) => {
      if (proxy.pod !== pod) return proxy;
      const merged = Object.entries({ ...pod.metadata.labels, ...labels }).filter((one) => one[1] !== null);
      const metadata = { ...pod.metadata, labels: Object.fromEntries(merged) as Record<string, string> };
      return { ...proxy, pod: { ...pod, metadata } };
    });
  }
  const without = (name: string) => next.proxies.filter(({ pod }) => pod.metadata.name !== `${name}-1`);
  for (const object of desired!.objects) {
    const { name } = object.metadata;
    if (object.kind === "Service") next.services.set(name, object as Service);
    if (object.kind !== "Deployment" || stampOf(world.deployments.get(name)) === stampOf(object)) continue;
    next.deployments.set(name, rolledOut(object as Deployment));
    // A rolling update of a shared fleet keeps its old pods until the new ones are ready.
    if (name !== childName.fleet(NAME)) next.proxies = without(name);
  }
  for (const { kind, metadata } of desired!.removals) {
    if (kind !== "Deployment") continue;
    next.deployments.delete(metadata.name);
    next.proxies = without(metadata.name);
  }
  return next;
}

/** A new pod, as it starts: KubeVIP pods have no label yet. */
function started(deployment: Deployment): ProxyFacts {
  const proxy = podOf(deployment);
  const { [LABEL.verified]: _, ...labels } = proxy.pod.metadata.labels!;
  return { ...proxy, pod: { ...proxy.pod, metadata: { ...proxy.pod.metadata, labels } } };
}

/** Starts the missing pods of Deployments, and replaces pods of older templates. */
function grown(world: World, share: number): World {
  let { proxies } = world;
  for (const [name, deployment] of world.deployments) {
    const shared = name === childName.fleet(NAME);
    const own = proxies.filter(({ pod }) => pod.metadata.name === `${name}-1`);
    if ((own.length > 0 && !shared) || !chance(share)) continue;
    proxies = [...proxies.filter((one) => !own.includes(one)), started(deployment)];
    // Labels of a shared fleet's pod stay: not all of its pods are replaced at once.
    if (own[0] !== undefined) proxies = [...proxies.slice(0, -1), { ...proxies.at(-1)!, pod: own[0].pod }];
  }
  return { ...world, proxies };
}

/** Changes what the operator knows: silence, a lost address, an operator restart. */
function disturbed(world: World): World {
  const restart = chance(0.1);
  const silence = chance(0.2);
  const proxies = world.proxies.map((proxy): ProxyFacts => {
    const address = world.deployments.get(proxy.pod.metadata.name.replace(/-1$/, ""))?.metadata.annotations?.[
      "egress.outrider.dev/address"
    ];
    const answer = { ready: true, polled: true, error: undefined, status: open(address) };
    if (restart) return { ...proxy, polled: false, status: undefined };
    if (silence) return { ...proxy, ...answer, status: undefined, error: "ECONNREFUSED" };
    const closed = address !== undefined && chance(0.1);
    if (!closed) return { ...proxy, ...answer };
    return {
      ...proxy,
      ...answer,
      ready: chance(0.5),
      status: { ...open(address), sources: [{ address, assigned: false }] },
    };
  });
  return { ...world, proxies, now: world.now + MINUTE * Math.floor(random() * 3) };
}

const answering = (world: World): World => ({
  ...world,
  now: world.now + MINUTE,
  proxies: world.proxies.map((proxy) => {
    const address = world.deployments.get(proxy.pod.metadata.name.replace(/-1$/, ""))?.metadata.annotations?.[
      "egress.outrider.dev/address"
    ];
    return { ...proxy, ready: true, polled: true, error: undefined, status: open(address) };
  }),
});

test(`a reconcile leaves an endpoint, and every fleet settles (SEED=${seed})`, () => {
  // The same choices each time that the test runs in a process.
  random = randomFrom(seed);
  let judged = 0;
  for (let run = 0; run < RUNS; run++) {
    let spec = randomSpec();
    let world = answering(grown(written(empty(), spec), 1));
    const story: string[] = [];
    for (let step = 0; step < STEPS; step++) {
      if (chance(0.2)) spec = randomSpec();
      world = disturbed(grown(world, 0.6));
      const before = endpoints(world, spec);
      const next = written(world, spec);
      const after = endpoints(next, spec);
      story.push(`${spec.nat.provider} ${[...before]} → ${[...after]}`);
      if (before.size > 1) {
        judged++;
        assert.ok(after.size > 0, `run ${run}, step ${step}: ${story.join("; ")}`);
      }
      world = next;
    }
    spec = randomSpec(true);
    for (let step = 0; step < SETTLE; step++) world = written(answering(grown(world, 1)), spec);
    const last = plan(answering(grown(world, 1)), spec).desired!;
    const left = {
      waiting: last.round.waiting.map(({ why }) => why),
      removals: last.removals.filter(({ kind }) => kind === "Deployment").map(({ metadata }) => metadata.name),
      held: last.round.held,
      former: last.formerProxies.map(({ pod }) => pod.metadata.name),
    };
    assert.deepEqual(
      left,
      { waiting: [], removals: [], held: undefined, former: [] },
      `run ${run}: ${story.join("; ")}`,
    );
  }
  assert.ok(judged > RUNS, `${judged} reconciles had endpoints of several Deployments`);
});
