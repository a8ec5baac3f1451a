import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { Client } from "../../operator/kube/client.ts";
import { readOwner } from "../../operator/webhook/certificates/owner.ts";
import { makeAuthority } from "../../operator/webhook/certificates/x509.ts";
import { Authority } from "../cluster/certificates.ts";
import { BOOT, controlPlaneMissing } from "../cluster/control-plane.ts";
import { configFrom } from "../operator/kube/shared.ts";
import { shownBy } from "./balancer.ts";
import { startLoad } from "./load.ts";
import { createPod, makeSenders, podOf, proxyOf, SECRET_PATH, SYSTEM, until } from "./shared.ts";
import { countOf, PROXY, type Secret, type Stage, startStage } from "./stage.ts";

const DAY_MS = 24 * 60 * 60 * 1000;
const PER_SECOND = 20;
/** Creations at once: more than the API server has idle connections to the webhook by then. */
const BURST = 8;

const skip = controlPlaneMissing({ controllers: true }) ?? false;
const onStage = (name: string, run: () => Promise<void>) => test(name, { skip, timeout: 180_000 }, run);
let stage: Stage;
before(async () => {
  if (!skip) stage = await startStage();
}, BOOT);
after(async () => {
  if (!skip) await stage.stop();
});

/** When a certificate ends, in openssl's eyes. */
const endOf = (pem: string): number => {
  const text = execFileSync("openssl", ["x509", "-noout", "-enddate"], { input: pem, encoding: "utf8" });
  return Date.parse(text.replace("notAfter=", ""));
};

/** Whether the first authority of a bundle signed a leaf. */
const signed = (authorities: string, leaf: string): boolean => {
  const file = join(stage.plane.folder, "first.pem");
  writeFileSync(file, authorities.split(/(?<=-----END CERTIFICATE-----\n)/)[0]!);
  try {
    execFileSync("openssl", ["verify", "-CAfile", file], { input: leaf, stdio: "pipe" });
    return true;
  } catch {
    return false;
  }
};

/** Creates pods until the API server has opened a new connection, which sees the certificate of the moment. */
async function overNewConnections(name: string): Promise<void> {
  const before = stage.balancer.connections;
  for (let round = 0; stage.balancer.connections === before; round++) {
    assert.ok(round < 50, "no new connection");
    const names = Array.from({ length: BURST }, (_, index) => `${name}-${round}-${index}`);
    const all = names.map((one) => createPod(stage.plane, "convoy", podOf(one, { label: "webhooks" })));
    for (const answer of await Promise.all(all)) assert.equal(proxyOf(answer), PROXY, answer.body.message);
  }
}

onStage("rotates leaf and authority under load without a failed admission", async () => {
  const { plane } = stage;
  // Created in the past, so that new certificates are valid for the API server, whose clock is unchanged.
  let ageMs = 244 * DAY_MS;
  const wallNow = () => Date.now() - ageMs;
  const maker = await stage.start({ wallNow });
  await until("certificates of the past", async () => (await stage.secretText("tls.crt")) !== "");
  ageMs = 13 * DAY_MS;
  await until("a leaf of thirteen days ago", async () => endOf(await stage.secretText("tls.crt")) > Date.now());
  await stage.end(maker);
  await stage.withReplicas([{ wallNow }, { wallNow }], async (...all) => {
    const old = { leaf: await stage.secretText("tls.crt"), bundle: await stage.bundle() };
    const left = endOf(old.leaf) - Date.now();
    assert.ok(left > 0 && left <= DAY_MS, "24 hours before its end");
    const load = startLoad(plane, "convoy", PER_SECOND);
    ageMs = 0;
    await until("a new leaf", async () => (await stage.secretText("tls.crt")) !== old.leaf);
    assert.ok(endOf(await stage.secretText("tls.crt")) - Date.now() > 13 * DAY_MS);
    await until("a second authority", async () => countOf(await stage.bundle()) === 2);
    assert.ok((await stage.bundle()).includes(old.bundle.trim()), "the old one stays");
    await overNewConnections("two-authorities");
    const second = await stage.secretText("ca.crt");
    await until("a leaf of the new one", async () => signed(second, await stage.secretText("tls.crt")));
    const leaf = await stage.secretText("tls.crt");
    for (const { port } of all) await until("it is shown", async () => (await shownBy(port)) === leaf);
    await stage.untilAdmitted();
    const { created, failures } = await load.stop();
    process.stderr.write(`${created} pods while leaf and authority were exchanged\n`);
    assert.deepEqual(failures, []);
    assert.ok(created > PER_SECOND);
  });
});

onStage("replaces a Secret that is deleted under load", async () => {
  const { plane } = stage;
  await makeSenders(plane, "deleting");
  await stage.withReplicas([{}, {}], async (...all) => {
    const trusted = countOf(await stage.bundle());
    const { uid } = (await plane.get<Secret>(SECRET_PATH))!.metadata;
    const load = startLoad(plane, "deleting", PER_SECOND);
    await plane.delete(SECRET_PATH);
    await plane.until<Secret>(SECRET_PATH, (found) => found !== undefined && found.metadata.uid !== uid, "a Secret");
    await until("one more authority", async () => countOf(await stage.bundle()) === trusted + 1);
    const newest = await stage.secretText("ca.crt");
    await until("a leaf of it", async () => signed(newest, await stage.secretText("tls.crt")));
    const leaf = await stage.secretText("tls.crt");
    for (const { port } of all) await until("it is shown", async () => (await shownBy(port)) === leaf);
    await overNewConnections("deleted");
    const { created, failures } = await load.stop();
    process.stderr.write(`${created} pods while the Secret was deleted\n`);
    assert.deepEqual(failures, []);
  });
});

onStage("replicas agree on one certificate and replace a damaged Secret", async () => {
  const { plane } = stage;
  await plane.delete(SECRET_PATH);
  await stage.withReplicas([{}, {}, {}], async (...all) => {
    const leaf = await stage.secretText("tls.crt");
    assert.ok(signed(await stage.secretText("ca.crt"), leaf));
    for (const { port } of all) assert.equal(await shownBy(port), leaf);
    await plane.patch(SECRET_PATH, { data: { "tls.key": Buffer.from("broken").toString("base64") } });
    await until("it is whole again", async () => (await stage.secretText("tls.key")).includes("PRIVATE KEY"));
    const repaired = await stage.secretText("tls.crt");
    for (const { port } of all) await until("it is shown", async () => (await shownBy(port)) === repaired);
    await stage.untilAdmitted(true);
  });
});

onStage("does not change a foreign Secret of the same name", async () => {
  const { plane } = stage;
  await plane.delete(SECRET_PATH);
  await plane.until(SECRET_PATH, (found) => found === undefined, "the Secret is gone");
  const data = { mine: Buffer.from("x").toString("base64") };
  const metadata = { name: "outrider-webhook", namespace: SYSTEM };
  await plane.apply(SECRET_PATH, { apiVersion: "v1", kind: "Secret", type: "Opaque", metadata, data });
  const replica = await stage.start({});
  const failures = async () => {
    const text = await replica.registry.metrics();
    return Number(/controller_runtime_reconcile_errors_total\{[^}]*\} (\d+)/.exec(text)?.[1]);
  };
  await until("it has tried", async () => (await failures()) > 1);
  assert.deepEqual((await plane.get<Secret>(SECRET_PATH))!.data, data);
  assert.equal(replica.ready, false);
  await plane.delete(SECRET_PATH);
  await until("a certificate, once the other Secret is gone", () => replica.ready);
  await stage.end(replica);
});

onStage("adds the operator's Deployment as owner of the Secret", async () => {
  const { plane } = stage;
  const labels = { app: "owner" };
  const template = { metadata: { labels }, spec: { containers: [{ name: "x", image: "x:1" }] } };
  const path = `/apis/apps/v1/namespaces/${SYSTEM}/deployments/outrider-operator`;
  const spec = { replicas: 0, selector: { matchLabels: labels }, template };
  const metadata = { name: "outrider-operator", namespace: SYSTEM };
  await plane.apply(path, { apiVersion: "apps/v1", kind: "Deployment", metadata, spec });
  const client = new Client(configFrom(stage.config));
  const owner = await readOwner(client, SYSTEM, "outrider-operator");
  client.close();
  const before = (await plane.get<Secret>(SECRET_PATH))!;
  assert.equal(before.metadata.ownerReferences, undefined);
  await stage.withReplicas([{ owner }], async () => {
    const owned = (one: Secret | undefined) => one?.metadata.ownerReferences?.some(({ kind }) => kind === "Deployment");
    const found = await plane.until<Secret>(SECRET_PATH, (one) => owned(one) === true, "an owner");
    assert.deepEqual(found!.data, before.data);
  });
  await plane.delete(path);
  await plane.until(SECRET_PATH, (found) => found === undefined, "garbage collection takes the Secret");
});

/** A folder like a mounted Secret. `give` writes a new certificate of an authority into it, and returns it. */
function mountedFolder(name: string) {
  const folder = join(stage.plane.folder, name);
  mkdirSync(folder);
  let count = 0;
  const give = (authority: Authority): string => {
    const { cert, key } = authority.issue(`${name}-${count++}`, `/CN=${name}-${count}`, ["IP:127.0.0.1"]);
    // For a moment they do not fit.
    cpSync(key, join(folder, "tls.key"));
    cpSync(cert, join(folder, "tls.crt"));
    cpSync(authority.file, join(folder, "ca.crt"));
    return readFileSync(cert, "utf8");
  };
  return { folder, give };
}

onStage("writes caBundle from a mounted ca.crt and reloads certificates", async () => {
  const { plane } = stage;
  const { folder, give } = mountedFolder("given");
  const one = give(plane.authority);
  const caBundle = readFileSync(plane.authority.file, "utf8");
  // An unknown authority, as after the generated certificates: it is kept for a while.
  const other = makeAuthority("other", { now: Date.now(), lifeMs: DAY_MS, serial: Buffer.from([1]) });
  await stage.setBundle(Buffer.from(other.cert).toString("base64"));
  await stage.withReplicas([{ certDir: folder }], async ({ port }) => {
    assert.equal(await shownBy(port), one);
    assert.equal(await stage.bundle(), caBundle + other.cert);
    const two = give(plane.authority);
    await until("the new one is shown", async () => (await shownBy(port)) === two);
    writeFileSync(join(folder, "tls.crt"), "half a certifi");
    await stage.untilAdmitted(true);
    assert.equal(await shownBy(port), two);
    assert.equal(await plane.get(SECRET_PATH), undefined);
    await until("the other authority is removed", async () => (await stage.bundle()) === caBundle);
    await stage.setBundle("");
    await until("caBundle is restored", async () => (await stage.bundle()) === caBundle);
  });
  const message = new RegExp(`^--webhook-cert-dir ${folder}/tls\\.crt is not a PEM certificate$`);
  await assert.rejects(stage.start({ certDir: folder }), { message });
});

onStage("rotates the authority of mounted certificates without a failed admission", async () => {
  const { plane } = stage;
  const next = new Authority(mkdtempSync(join(plane.folder, "authority-")));
  // The volumes of two nodes, which kubelets update at different times.
  const [first, second] = [mountedFolder("first"), mountedFolder("second")];
  for (const { give } of [first, second]) give(plane.authority);
  await makeSenders(plane, "mounted");
  await stage.withReplicas([{ certDir: first.folder }, { certDir: second.folder }], async (a, b) => {
    const load = startLoad(plane, "mounted", PER_SECOND);
    const leaf = first.give(next);
    await until("the first replica shows it", async () => (await shownBy(a.port)) === leaf);
    assert.equal(countOf(await stage.bundle()), 2);
    await overNewConnections("first-volume");
    const later = second.give(next);
    await until("the second replica shows it", async () => (await shownBy(b.port)) === later);
    const wanted = readFileSync(next.file, "utf8");
    await until("caBundle has only the new one", async () => (await stage.bundle()) === wanted);
    await overNewConnections("second-volume");
    const { created, failures } = await load.stop();
    process.stderr.write(`${created} pods while the mounted authority was exchanged\n`);
    assert.deepEqual(failures, []);
  });
});
