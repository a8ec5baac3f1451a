import assert from "node:assert/strict";
import { mkdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
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

/** A folder with these passwords by user name. */
function passwordFolder(passwords: Record<string, string>): string {
  const folder = tempFolder();
  for (const [user, text] of Object.entries(passwords)) writeFileSync(join(folder, user), text);
  return folder;
}

/** A proxy with a password folder, and a receiver that sends back what it gets. */
async function withPasswords(t: TestContext, folder: string, policy: string = open) {
  const args = [...OPEN_LOOPBACK, "--password-dir", folder, "--on-bad-policy", "wait"];
  const proxy = await startProxy({ policy, args, hosts: HOSTS });
  const far = await listen((socket) => socket.pipe(socket));
  t.after(async () => {
    await proxy.stop();
    await far.close();
  });
  const ask = (user: string, secret: string, host = "127.0.0.1") => {
    const credentials = Buffer.from(`${user}:${secret}`).toString("base64");
    return `CONNECT ${host}:${far.port} HTTP/1.1\r\nProxy-Authorization: Basic ${credentials}\r\n\r\n`;
  };
  const answer = async (wire: string) => {
    const client = await RawClient.open(proxy.port);
    client.socket.write(wire);
    await client.untilText("\r\n");
    client.socket.destroy();
    return client.text.slice(9, 12);
  };
  const status = (user: string, secret: string, host?: string) => answer(ask(user, secret, host));
  const without = () => answer(`CONNECT 127.0.0.1:${far.port} HTTP/1.1\r\n\r\n`);
  const tunnel = async (user: string, secret: string) => {
    const client = await RawClient.open(proxy.port);
    client.socket.write(ask(user, secret));
    await client.untilText("200 Connection established");
    return client;
  };
  return { proxy, status, without, tunnel };
}

/** From the change of a file to the end of a tunnel. */
const REVOKED_MS = 5000;
const ended = (client: RawClient) =>
  client.until(() => client.socket.destroyed, "end of a tunnel whose password is gone", REVOKED_MS);

/** Sends a text through a tunnel, and waits until it comes back. */
async function alive(client: RawClient, text: string): Promise<void> {
  client.socket.write(text);
  await client.untilText(text);
}

test("reloads passwords and resets tunnels of removed ones", async (t) => {
  const folder = passwordFolder({ alice: "one", bob: "two" });
  const { proxy, status, tunnel } = await withPasswords(t, folder);
  const [alice, bob] = [await tunnel("alice", "one"), await tunnel("bob", "two")];
  replace(join(folder, "alice"), "three");
  await ended(alice);
  assert.equal((await proxy.waitRecord((r) => r.close === "revoked")).client, "alice");
  assert.equal(await status("alice", "one"), "407");
  (await tunnel("alice", "three")).socket.destroy();
  await alive(bob, "unharmed");
  bob.socket.destroy();
  assert.equal(await proxy.stop(), 0);
});

test("an empty password file refuses its user name, also with the shared password", async (t) => {
  const folder = passwordFolder({ alice: "one", bob: "two", PROXY_PASSWORD: "shared" });
  const { proxy, status, tunnel } = await withPasswords(t, folder);
  const [alice, bob] = [await tunnel("alice", "one"), await tunnel("bob", "two")];
  replace(join(folder, "alice"), "");
  await ended(alice);
  for (const secret of ["one", "shared", ""]) assert.equal(await status("alice", secret), "407", secret);
  await alive(bob, "unharmed");
  assert.match(proxy.stderr(), /"level":"warn".*alice: the password file is empty: this user name is refused/);
  assert.equal((await proxy.untilStatus(() => true)).policyError, null);

  replace(join(folder, "PROXY_PASSWORD"), "\n");
  await proxy.untilStatus(() => /PROXY_PASSWORD: the password file is empty: it is valid for no/.test(proxy.stderr()));
  for (const secret of ["shared", ""]) assert.equal(await status("carol", secret), "407", secret);
  bob.socket.destroy();
});

test("a broken policy does not keep a removed password", async (t) => {
  const folder = passwordFolder({ alice: "one", bob: "two" });
  const { proxy, status, tunnel } = await withPasswords(t, folder);
  const { hash } = (await proxy.untilStatus(() => true)).policy!;
  const [alice, bob] = [await tunnel("alice", "one"), await tunnel("bob", "two")];
  replace(proxy.policyFile, keepOnly.slice(0, -10));
  await proxy.untilStatus(({ policyError }) => /not valid JSON/.test(policyError ?? ""));
  rmSync(join(folder, "alice"));
  await ended(alice);
  assert.equal(await status("alice", "one"), "407");
  await alive(bob, "unharmed");
  const now = await proxy.untilStatus(() => true);
  assert.deepEqual([now.policy!.hash, now.ready], [hash, true]);
  assert.match(now.policyError!, /not valid JSON/);
  bob.socket.destroy();
});

test("a policy file that is written all the time does not keep a removed password", async (t) => {
  const folder = passwordFolder({ alice: "one", bob: "two" });
  const { proxy, tunnel } = await withPasswords(t, folder);
  const alice = await tunnel("alice", "one");
  let version = 0;
  const writer = setInterval(() => replace(proxy.policyFile, `${open}${" ".repeat(++version)}`), 50);
  t.after(() => clearInterval(writer));
  rmSync(join(folder, "alice"));
  await ended(alice);
});

test("a broken password file keeps its own password only, and not the old policy", async (t) => {
  const folder = passwordFolder({ alice: "one", bob: "two", PROXY_PASSWORD: "shared" });
  const { proxy, status, tunnel } = await withPasswords(t, folder);
  const { hash } = (await proxy.untilStatus(() => true)).policy!;
  const [alice, bob] = [await tunnel("alice", "one"), await tunnel("bob", "two")];
  writeFileSync(join(folder, "alice"), "x".repeat(5000));
  writeFileSync(join(folder, "new"), "x".repeat(5000));
  rmSync(join(folder, "bob"));
  await ended(bob);
  await proxy.untilStatus(({ policyError }) => /alice: longer than 4096 bytes; .*new: longer/.test(policyError ?? ""));
  await alive(alice, "unharmed");
  assert.match(proxy.stderr(), /new: longer than 4096 bytes; passwords that cannot be read stay as they were/);
  assert.deepEqual(
    [await status("alice", "one"), await status("alice", "shared"), await status("new", "shared")],
    ["200", "407", "407"],
  );
  replace(proxy.policyFile, keepOnly);
  await proxy.untilStatus(({ policy }) => policy!.hash !== hash);
  assert.match((await proxy.untilStatus(() => true)).policyError!, /alice: longer than 4096 bytes/);
  assert.deepEqual(
    [await status("alice", "one", "a.example"), await status("alice", "one", "keep.example")],
    ["403", "200"],
  );
  for (const name of ["alice", "new"]) replace(join(folder, name), "three");
  await proxy.untilStatus(({ policyError }) => policyError === null);
  assert.deepEqual(
    [await status("alice", "three", "keep.example"), await status("new", "three", "keep.example")],
    ["200", "200"],
  );
  const { text } = await proxy.admin("/metrics");
  assert.match(text, /outrider_proxy_policy_reload_total\{result="failure"\} [1-3]\n/);
});

test("without the last password every client is refused", async (t) => {
  for (const name of ["PROXY_PASSWORD", "alice"]) {
    const folder = passwordFolder({ [name]: "one" });
    const { proxy, status, without, tunnel } = await withPasswords(t, folder);
    const client = await tunnel("alice", "one");
    rmSync(join(folder, name));
    await ended(client);
    assert.deepEqual([await without(), await status("alice", "one"), await status("alice", "")], ["407", "407", "407"]);
    const { hash } = (await proxy.untilStatus(() => true)).policy!;
    replace(proxy.policyFile, keepOnly);
    await proxy.untilStatus(({ policy }) => policy!.hash !== hash);
    assert.equal(await without(), "407");
    assert.match(
      proxy.stderr(),
      /"level":"warn".*--password-dir \S+: has no password file: all passwords of the folder are revoked/,
    );
    replace(join(folder, name), "two");
    const began = Date.now();
    while ((await status("alice", "two")) !== "403")
      assert.ok(Date.now() - began < REVOKED_MS, "the password is not back");
    assert.equal(await without(), "407");
  }
});

test("a password folder that is gone keeps the passwords until it is back", async (t) => {
  const folder = join(tempFolder(), "passwords");
  renameSync(passwordFolder({ alice: "one", bob: "two" }), folder);
  const { proxy, status, tunnel } = await withPasswords(t, folder);
  const [alice, bob] = [await tunnel("alice", "one"), await tunnel("bob", "two")];
  renameSync(folder, `${folder}.away`);
  await proxy.untilStatus(({ policyError }) => /--password-dir \S+: ENOENT/.test(policyError ?? ""));
  assert.deepEqual([await status("alice", "one"), await status("alice", "two")], ["200", "407"]);
  rmSync(join(`${folder}.away`, "alice"));
  renameSync(`${folder}.away`, folder);
  await ended(alice);
  await proxy.untilStatus(({ policyError }) => policyError === null);
  await alive(bob, "unharmed");
  bob.socket.destroy();
});

test("a proxy that waits for its files installs nothing before all of them are valid", async (t) => {
  const folder = passwordFolder({ alice: "" });
  const { proxy, status, without } = await withPasswords(t, folder, "broken");
  const { policyError } = await proxy.untilStatus(() => true);
  assert.match(policyError!, /^alice: the password is empty/);
  replace(join(folder, "alice"), "one");
  await proxy.untilStatus((now) => /is not a policy/.test(now.policyError ?? ""));
  assert.deepEqual([await without(), (await proxy.untilStatus(() => true)).policy], ["503", null]);
  replace(proxy.policyFile, open);
  await proxy.untilStatus((now) => now.policy !== null && now.policyError === null);
  assert.deepEqual([await without(), await status("alice", "one")], ["407", "200"]);
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
