import assert from "node:assert/strict";
import { mkdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { deafListener, untilDialling } from "../harness/deaf.ts";
import { manifest, OPEN_LOOPBACK, startProxy, tempFolder } from "../harness/proxy.ts";
import { exchange, listen, RawClient } from "../harness/raw.ts";

const HOSTS = "127.0.0.1 keep.example a.example b.example\n";
const keepOnly = manifest({ defaultAction: "Deny", allow: [{ hosts: ["keep.example"] }] });
const open = manifest({});

/** Replaces a file as editors and operators do: written to another name, then renamed. */
function replace(file: string, text: string): void {
  writeFileSync(`${file}.new`, text);
  renameSync(`${file}.new`, file);
}

/** A ConfigMap volume: the file is a link through `..data`, which is swapped as a whole. */
function swapVolume(folder: string, version: number, text: string): void {
  mkdirSync(join(folder, `..v${version}`));
  writeFileSync(join(folder, `..v${version}`, "policy.json"), text);
  symlinkSync(`..v${version}`, join(folder, "..data_tmp"));
  renameSync(join(folder, "..data_tmp"), join(folder, "..data"));
}

test("applies a swapped ConfigMap to requests and open tunnels", async () => {
  const folder = tempFolder();
  swapVolume(folder, 1, open);
  symlinkSync("..data/policy.json", join(folder, "policy.json"));
  const proxy = await startProxy({ policyFile: join(folder, "policy.json"), args: OPEN_LOOPBACK, hosts: HOSTS });
  const far = await listen((socket) => socket.pipe(socket));
  const kept = await RawClient.open(proxy.port);
  const doomed = await RawClient.open(proxy.port);
  await kept.connect(`keep.example:${far.port}`);
  await doomed.connect(`a.example:${far.port}`);
  const first = await proxy.untilStatus((status) => status.policy !== null);

  swapVolume(folder, 2, keepOnly);
  await doomed.until(() => doomed.socket.destroyed, "end of the forbidden tunnel");
  const record = await proxy.waitRecord((r) => r.close === "revoked");
  assert.deepEqual([record.target, record.verdict, record.code], [`a.example:${far.port}`, "allow", "not-allowed"]);
  kept.socket.write("still here");
  await kept.untilText("still here");
  const refused = await exchange(proxy.port, `CONNECT a.example:${far.port} HTTP/1.1\r\n\r\n`);
  assert.match(refused, /^HTTP\/1\.1 403 egress-denied: a\.example is not on the allow list/);
  const second = await proxy.untilStatus((status) => status.policy!.hash !== first.policy!.hash);

  swapVolume(folder, 3, open);
  await proxy.untilStatus((status) => status.policy!.hash === first.policy!.hash);
  assert.notEqual(second.policy!.hash, first.policy!.hash);
  kept.socket.destroy();
  assert.equal(await proxy.stop(), 0);
  await far.close();
});

test("keeps the last valid policy and reports the reason", async () => {
  const proxy = await startProxy({ policy: keepOnly, args: OPEN_LOOPBACK, hosts: HOSTS });
  const far = await listen((socket) => socket.end("hi"));
  const good = (await proxy.untilStatus((status) => status.policyError === null)).policy!.hash;
  const rows: [string | null, RegExp][] = [
    [keepOnly.slice(0, -10), /not valid JSON/],
    ["", /the file is empty/],
    [manifest({ defaultAction: "Maybe" }), /spec\.defaultAction: must be one of/],
    [null, /no such file/],
  ];
  for (const [text, expected] of rows) {
    if (text === null) rmSync(proxy.policyFile);
    else replace(proxy.policyFile, text);
    const status = await proxy.untilStatus((now) => expected.test(now.policyError ?? ""));
    assert.equal(status.policy!.hash, good);
    assert.equal(status.ready, true);
    const kept = await exchange(proxy.port, `CONNECT keep.example:${far.port} HTTP/1.1\r\n\r\n`);
    assert.match(kept, /^HTTP\/1\.1 200 /);
    const refused = await exchange(proxy.port, `CONNECT a.example:${far.port} HTTP/1.1\r\n\r\n`);
    assert.match(refused, /^HTTP\/1\.1 403 /);
  }
  assert.match((await proxy.admin("/metrics")).text, /outrider_proxy_policy_reload_total\{result="failure"\} 4\n/);
  assert.match(proxy.stderr(), /no such file; the last valid policy stays in force/);
  replace(proxy.policyFile, open);
  await proxy.untilStatus((status) => status.policyError === null && status.policy!.hash !== good);
  assert.equal(await proxy.stop(), 0);
  await far.close();
});

test("reloads passwords and resets tunnels of removed ones", async () => {
  const folder = tempFolder();
  const password = (name: string, text: string) => replace(join(folder, name), text);
  password("alice", "one");
  password("bob", "two");
  const proxy = await startProxy({ args: [...OPEN_LOOPBACK, "--password-dir", folder] });
  const far = await listen((socket) => socket.pipe(socket));
  const basic = (user: string, secret: string) => `Basic ${Buffer.from(`${user}:${secret}`).toString("base64")}`;
  const ask = (user: string, secret: string) =>
    `CONNECT 127.0.0.1:${far.port} HTTP/1.1\r\nProxy-Authorization: ${basic(user, secret)}\r\n\r\n`;
  const tunnel = async (user: string, secret: string) => {
    const client = await RawClient.open(proxy.port);
    client.socket.write(ask(user, secret));
    await client.untilText("200 Connection established");
    return client;
  };
  const [alice, bob] = [await tunnel("alice", "one"), await tunnel("bob", "two")];
  password("alice", "");
  await proxy.untilStatus((status) => /alice: the password is empty/.test(status.policyError ?? ""));
  assert.equal(alice.socket.destroyed, false);
  (await tunnel("alice", "one")).socket.destroy();

  password("alice", "three");
  await alice.until(() => alice.socket.destroyed, "end of a tunnel whose password is gone");
  assert.equal((await proxy.waitRecord((r) => r.close === "revoked")).client, "alice");
  assert.match(await exchange(proxy.port, ask("alice", "one")), /^HTTP\/1\.1 407 /);
  (await tunnel("alice", "three")).socket.destroy();
  bob.socket.write("unharmed");
  await bob.untilText("unharmed");
  bob.socket.destroy();
  assert.equal(await proxy.stop(), 0);
  await far.close();
});

const RELOADS = 50;
const TUNNELS = 200;
/** Clients that send one request after the other. */
const CLIENTS = 16;
/** Requests between two reloads. */
const STEADY_REQUESTS = 40;
/** Time limit for each step on a loaded machine. */
const STEP_MS = 60_000;

test(`one policy decides each request during ${RELOADS} reloads`, { timeout: 600_000 }, async (t) => {
  const policies = ["a", "b"].map((host) => manifest({ deny: [{ name: `no-${host}`, hosts: [`${host}.example`] }] }));
  const proxy = await startProxy({ policy: policies[0]!, args: OPEN_LOOPBACK, hosts: HOSTS });
  const far = await listen((socket) => {
    socket.on("data", (chunk) => {
      if (String(chunk).startsWith("GET"))
        socket.end("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
      else socket.write(chunk);
    });
  });
  t.after(far.close);
  const tunnel = async (host: string) => {
    const client = await RawClient.open(proxy.port);
    await client.connect(`${host}.example:${far.port}`);
    return client;
  };
  const kept = await Promise.all(Array.from({ length: TUNNELS }, () => tunnel("keep")));
  const hashes = [(await proxy.untilStatus(() => true)).policy!.hash];

  // Closed loop: a slow machine sends fewer requests in the same time, and none waits for another one.
  const counts = { asked: 0, allowed: 0, denied: 0, cut: 0 };
  let going = true;
  const wires = ["a", "b"].map(
    (host) => `GET http://${host}.example:${far.port}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`,
  );
  const ask = async (wire: string) => {
    const client = await RawClient.open(proxy.port);
    client.socket.write(wire);
    await client.untilEnd(STEP_MS);
    client.socket.destroy();
    if (client.text === "") counts.cut++;
    else if (client.text.startsWith("HTTP/1.1 200 ")) counts.allowed++;
    else if (/^HTTP\/1\.1 403 egress-denied: [ab]\.example is denied by rule no-[ab];/.test(client.text))
      counts.denied++;
    else assert.fail(client.text);
    counts.asked++;
  };
  const lane = async (first: number) => {
    for (let i = first; going; i++) await ask(wires[i % 2]!);
  };
  const lanes = Promise.all(Array.from({ length: CLIENTS }, (_, i) => lane(i)));
  // Its failure is reported where it is awaited.
  lanes.catch(() => {});
  /** Waits until this many more requests have been answered. */
  const untilAsked = async (more: number) => {
    for (const wanted = counts.asked + more; counts.asked < wanted; )
      await Promise.race([lanes, new Promise((resolve) => setTimeout(resolve, 10))]);
  };

  const doomed: { client: RawClient; closed: Promise<void> }[] = [];
  for (let i = 1; i <= RELOADS; i++) {
    // A truncated file in between must not change anything.
    if (i % 10 === 0) {
      replace(proxy.policyFile, policies[i % 2]!.slice(0, 60));
      proxy.signal("SIGHUP");
      await proxy.untilStatus((status) => status.policyError !== null, STEP_MS);
    }
    const forbidden = await tunnel(i % 2 === 1 ? "b" : "a");
    replace(proxy.policyFile, policies[i % 2]!);
    proxy.signal("SIGHUP");
    const closed = forbidden.until(() => forbidden.socket.destroyed, "end of a forbidden tunnel", STEP_MS);
    doomed.push({ client: forbidden, closed });
    const before = hashes.at(-1);
    const wanted = (status: { policyError: string | null; policy: { hash: string } | null }) =>
      status.policyError === null && status.policy!.hash !== before;
    hashes.push((await proxy.untilStatus(wanted, STEP_MS)).policy!.hash);
    await untilAsked(STEADY_REQUESTS);
  }
  going = false;
  await Promise.all([lanes, ...doomed.map(({ closed }) => closed)]);
  assert.equal(new Set(hashes).size, 2);

  const total = counts.asked + RELOADS;
  await proxy.waitRecord(() => proxy.records().length >= total, STEP_MS);
  const records = proxy.records();
  assert.equal(records.length, total, "no tunnel to a permitted host has ended");
  // Requests that were sent before their denial are reset: a 403 would claim that they were never sent.
  assert.equal(records.filter((record) => record.close === "revoked").length, counts.cut + RELOADS);
  assert.equal(records.filter((record) => record.verdict === "deny").length, counts.denied);
  const decided = new Set<string>();
  for (const record of records) {
    if (record.close === "revoked") continue;
    const denies = record.hash === hashes[0] ? "a.example" : "b.example";
    assert.ok(hashes.includes(String(record.hash)));
    const denied = record.target.startsWith(denies);
    assert.deepEqual([record.verdict, record.rule], denied ? ["deny", `no-${denies[0]}`] : ["allow", "default"]);
    decided.add(`${record.hash} ${record.verdict}`);
  }
  assert.equal(decided.size, 4, "each policy has allowed and denied");
  for (const [i, client] of kept.entries()) {
    client.socket.write(`alive ${i};`);
    await client.untilText(`alive ${i};`);
    client.socket.destroy();
  }
  assert.equal(await proxy.stop(), 0);
});

test("a reload during a dial refuses a newly denied request", async (t) => {
  const proxy = await startProxy({ policy: open, args: [...OPEN_LOOPBACK, "--connect-seconds", "20"], hosts: HOSTS });
  const deaf = await deafListener();
  t.after(deaf.close);
  const client = await RawClient.open(proxy.port);
  client.socket.write(`CONNECT a.example:${deaf.port} HTTP/1.1\r\n\r\n`);
  await untilDialling(deaf.port, 1);
  const before = (await proxy.untilStatus(() => true)).policy!.hash;
  replace(proxy.policyFile, keepOnly);
  proxy.signal("SIGHUP");
  const { hash } = (await proxy.untilStatus((status) => status.policy!.hash !== before)).policy!;
  deaf.hear();
  await client.untilEnd(15_000);
  assert.match(client.text, /^HTTP\/1\.1 403 egress-denied: a\.example is not on the allow list/);
  const record = await proxy.waitRecord((r) => r.target.startsWith("a.example"));
  assert.deepEqual([record.verdict, record.code, record.hash], ["deny", "not-allowed", hash]);
  client.socket.destroy();
  assert.equal(await proxy.stop(), 0);
});
