import assert from "node:assert/strict";
import { renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { opensslMissing } from "../harness/certificate.ts";
import { basic, passwordFolder } from "../harness/clients.ts";
import { deafListener, untilDialling } from "../harness/deaf.ts";
import { Pki, tlsArgs, tlsClient, tlsFolder } from "../harness/pki.ts";
import { OPEN_LOOPBACK, type ProxyHandle, startProxy } from "../harness/proxy.ts";
import { exchange, listen, RawClient } from "../harness/raw.ts";

const skip = opensslMissing() ?? false;
/** Time from the change of a file to the end of what it revokes. */
const REVOKED_MS = 5000;
const HOSTS = "127.0.0.1 a.example b.example\n";
const PASSWORDS = { PROXY_PASSWORD: "together", billing: "b-pass", shop: "s-pass", unlisted: "u-pass" };
const PAIRS = {
  billing: "billing:b-pass",
  shop: "shop:s-pass",
  unlisted: "unlisted:u-pass",
  shared: "x:together",
  missing: null,
} as const;
type User = keyof typeof PAIRS;
const PATHS = ["connect", "http"] as const;

function fieldsOf(user: User): string {
  const pair = PAIRS[user];
  return pair === null ? "" : basic(pair);
}

/** A document; without clients it has version 1. */
function document(clients: object[] | null, more: object = {}): string {
  const base = clients === null ? { version: 1 } : { version: 2, clients };
  return JSON.stringify({ ...base, policy: "test/test", ...more });
}

const everything = (...names: string[]) => names.map((name) => ({ name }));

/** Answers with a part of a response, and then echoes. */
const receiver = () =>
  listen((socket) => {
    socket.on("data", (chunk) => {
      const text = chunk.toString("latin1");
      socket.write(text.startsWith("GET ") ? "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\npart" : text);
    });
    socket.on("end", () => socket.end());
  });

function wire(path: (typeof PATHS)[number], target: string, fields: string): string {
  if (path === "connect") return `CONNECT ${target} HTTP/1.1\r\n${fields}\r\nGET / HTTP/1.1\r\n\r\n`;
  return `GET http://${target}/ HTTP/1.1\r\nHost: x\r\n${fields}\r\n`;
}

/** A tunnel, and a plain request in the body of its response, of each user. */
async function openAll(proxy: ProxyHandle, port: number, users: readonly User[], host = "a.example") {
  const opened: { user: User; path: (typeof PATHS)[number]; client: RawClient }[] = [];
  for (const user of users) {
    for (const path of PATHS) {
      const client = await RawClient.open(proxy.port);
      client.socket.write(wire(path, `${host}:${port}`, fieldsOf(user)));
      await client.untilText("part");
      opened.push({ user, path, client });
    }
  }
  return {
    opened,
    /** Waits until those of these users have ended; all others are open. Returns the records of the ended ones. */
    async untilOnly(ended: readonly User[], changedAt: number) {
      const [doomed, kept] = [
        opened.filter(({ user }) => ended.includes(user)),
        opened.filter(({ user }) => !ended.includes(user)),
      ];
      for (const { client, user, path } of doomed) {
        const left = REVOKED_MS - (Date.now() - changedAt);
        await client.until(() => client.socket.destroyed, `end of ${user} ${path}`, left);
      }
      const wanted = doomed.length;
      const revoked = () => proxy.records().filter((r) => r.close === "revoked");
      await proxy.waitRecord(() => revoked().length >= wanted);
      for (const { client, path, user } of kept) {
        assert.equal(client.socket.destroyed, false, `${user} ${path}`);
        if (path !== "connect") continue;
        client.socket.write("still here");
        await client.untilText("still here");
      }
      return revoked();
    },
    close() {
      for (const { client } of opened) client.socket.destroy();
    },
  };
}

/** Replaces a file as editors and operators do; returns when. */
function replace(file: string, text: string): number {
  writeFileSync(`${file}.new`, text);
  renameSync(`${file}.new`, file);
  return Date.now();
}

async function start(policy: string) {
  const folder = passwordFolder(PASSWORDS);
  const proxy = await startProxy({ policy, args: [...OPEN_LOOPBACK, "--password-dir", folder], hosts: HOSTS });
  const far = await receiver();
  const ask = async (user: User, host = "a.example") => {
    const text = await exchange(
      proxy.port,
      `OPTIONS http://${host}:${far.port}/ HTTP/1.1\r\nMax-Forwards: 0\r\nHost: x\r\n${fieldsOf(user)}\r\n`,
    );
    return text.split("\r\n")[0]!;
  };
  return { proxy, far, folder, ask };
}

test("a removed entry ends its requests, also where default allows them", async () => {
  const { proxy, far, ask } = await start(document(everything("billing", "shop", "default")));
  const all = await openAll(proxy, far.port, ["billing", "shop", "unlisted", "shared"]);
  const at = replace(proxy.policyFile, document(everything("shop", "default")));
  for (const record of await all.untilOnly(["billing"], at)) {
    const { client, entry, authentication, verdict, code, reason } = record;
    assert.deepEqual(
      [client, entry, authentication, verdict, code, reason],
      ["billing", "billing", "password", "allow", "client", "this client is no longer in the policy"],
    );
  }
  assert.match(await ask("billing"), / 200 /);
  assert.equal((await proxy.waitRecord((r) => r.client === "billing" && r.code === undefined)).entry, "default");
  all.close();
  assert.equal(await proxy.stop(), 0);
  await far.close();
});

test("a removed password ends the requests of its client", async () => {
  const { proxy, far, folder, ask } = await start(document(everything("billing", "shop", "default")));
  const all = await openAll(proxy, far.port, ["billing", "shop", "unlisted", "shared"]);
  rmSync(join(folder, "billing"));
  for (const record of await all.untilOnly(["billing"], Date.now())) {
    assert.deepEqual([record.client, record.entry, record.code], ["billing", "billing", "auth"]);
  }
  assert.match(await ask("billing"), / 407 /);
  all.close();
  assert.equal(await proxy.stop(), 0);
  await far.close();
});

test("the first entry ends the requests of all clients without one", async () => {
  const { proxy, far, ask } = await start(document(null));
  const all = await openAll(proxy, far.port, ["billing", "shop", "unlisted", "shared"]);
  const at = replace(
    proxy.policyFile,
    document([{ name: "billing" }, { name: "shop", allow: [{ hosts: ["b.example"] }] }]),
  );
  const records = await all.untilOnly(["shop", "unlisted", "shared"], at);
  const codes = records.map(({ client, entry, code }) => `${client} ${entry} ${code}`);
  assert.deepEqual(codes.sort(), [
    ...Array(2).fill("shop shop not-allowed"),
    ...Array(2).fill("unlisted undefined client"),
    ...Array(2).fill("x undefined client"),
  ]);
  assert.match(await ask("shared"), / 403 egress-denied: this client has no entry in the policy/);
  all.close();
  const kept = await proxy.waitRecord((r) => r.client === "billing");
  assert.equal(kept.entry, "billing");
  assert.equal(await proxy.stop(), 0);
  await far.close();
});

test("a new entry decides the open requests of its client again", async () => {
  const { proxy, far } = await start(document(everything("billing", "default")));
  const all = await openAll(proxy, far.port, ["billing", "shop", "unlisted"]);
  const shop = { name: "shop", deny: [{ name: "not-a", hosts: ["a.example"] }] };
  const at = replace(proxy.policyFile, document([...everything("billing", "default", "unlisted"), shop]));
  for (const record of await all.untilOnly(["shop"], at)) {
    assert.deepEqual([record.client, record.entry, record.code, record.rule], ["shop", "shop", "denied-rule", "not-a"]);
  }
  // Its entry is now another one, whose removal ends it.
  const later = replace(proxy.policyFile, document([...everything("billing", "default"), shop]));
  const ended = await all.untilOnly(["shop", "unlisted"], later);
  const gone = ended.filter((r) => r.client === "unlisted").map((r) => `${r.entry} ${r.reason}`);
  assert.deepEqual(gone, Array(2).fill("unlisted this client is no longer in the policy"));
  all.close();
  assert.equal(await proxy.stop(), 0);
  await far.close();
});

test("the removal of all entries ends the requests that they allowed", async () => {
  const { proxy, far, ask } = await start(document(everything("billing", "default")));
  const all = await openAll(proxy, far.port, ["billing", "shared"]);
  const at = replace(proxy.policyFile, document(null));
  const records = await all.untilOnly(["billing", "shared"], at);
  assert.deepEqual(records.map((r) => `${r.entry} ${r.code}`).sort(), [
    ...Array(2).fill("billing client"),
    ...Array(2).fill("default client"),
  ]);
  assert.match(await ask("billing"), / 200 /);
  assert.equal(await proxy.stop(), 0);
  await far.close();
});

test("locks a client out in three steps, and ends no request of others", async () => {
  const others = everything("shop", "default");
  const { proxy, far, folder, ask } = await start(document([{ name: "billing" }, ...others], { mode: "Report" }));
  const all = await openAll(proxy, far.port, ["billing", "shop", "shared"]);
  const locked = { name: "billing", mode: "Enforce", deny: [{ name: "locked", ports: ["1-65535"] }] };
  const at = replace(proxy.policyFile, document([locked, ...others], { mode: "Report" }));
  for (const { code, rule } of await all.untilOnly(["billing"], at))
    assert.deepEqual([code, rule], ["denied-rule", "locked"]);
  assert.match(await ask("billing"), / 403 egress-denied: a\.example is denied by rule locked/);
  rmSync(join(folder, "billing"));
  await proxy.untilStatus(() =>
    /"msg":"policy loaded"[\s\S]*"msg":"policy loaded"[\s\S]*"msg":"policy loaded"/.test(proxy.stderr()),
  );
  assert.match(await ask("billing"), / 407 /);
  const last = replace(proxy.policyFile, document(others, { mode: "Report" }));
  await all.untilOnly(["billing"], last);
  assert.match(await ask("billing"), / 407 /);
  all.close();
  assert.equal(await proxy.stop(), 0);
  await far.close();
});

test("ends requests without a proof when they are no longer admitted", async () => {
  const clients = everything("billing", "default");
  const admits = (allowMissing: boolean) => document(clients, { authentication: { mode: "Basic", allowMissing } });
  const { proxy, far } = await start(admits(true));
  const all = await openAll(proxy, far.port, ["billing", "missing", "shared"]);
  const at = replace(proxy.policyFile, admits(false));
  for (const { entry, authentication, code } of await all.untilOnly(["missing"], at)) {
    assert.deepEqual([entry, authentication, code], ["default", "none", "auth"]);
  }
  all.close();
  assert.equal(await proxy.stop(), 0);
  await far.close();
});

test("a revoked certificate ends the requests of its client", { skip }, async () => {
  const pki = new Pki();
  const folder = tlsFolder(pki, pki.issue("server", "/CN=server", { names: ["IP:127.0.0.1"] }), true);
  const proxy = await startProxy({
    policy: document(everything("billing", "shop", "default")),
    args: [...OPEN_LOOPBACK, ...tlsArgs(folder, "cn", true)],
    hosts: HOSTS,
  });
  const far = await receiver();
  const issued = { billing: pki.issue("billing", "/CN=billing"), shop: pki.issue("shop", "/CN=shop") };
  const opened: { name: string; client: RawClient }[] = [];
  for (const [name, one] of Object.entries(issued)) {
    for (const path of PATHS) {
      const client = await tlsClient(proxy.tlsPort, pki.file, one);
      client.socket.write(wire(path, `a.example:${far.port}`, ""));
      await client.untilText("part");
      opened.push({ name, client });
    }
  }
  pki.revoke(issued.billing);
  pki.crl(join(folder, "ca.crl"), { from: 0 });
  const at = Date.now();
  for (const { name, client } of opened) {
    if (name !== "billing") continue;
    await client.until(() => client.socket.destroyed, "end", REVOKED_MS - (Date.now() - at));
  }
  for (const { name, client } of opened) assert.equal(client.socket.destroyed, name === "billing");
  await proxy.waitRecord(() => proxy.records().length === 2);
  for (const { client, entry, authentication, code, close } of proxy.records()) {
    assert.deepEqual(
      [client, entry, authentication, code, close],
      ["billing", "billing", "certificate", "client", "revoked"],
    );
  }
  for (const { client } of opened) client.socket.destroy();
  assert.equal(await proxy.stop(), 0);
  await far.close();
});

test("an entry that is removed during a dial refuses its request", async (t) => {
  const { proxy, far } = await start(
    document(everything("billing", "default"), { proxy: { timeouts: { connectSeconds: 20 } } }),
  );
  const deaf = await deafListener();
  t.after(deaf.close);
  const clients = await Promise.all(PATHS.map(() => RawClient.open(proxy.port)));
  for (const [i, path] of PATHS.entries()) {
    clients[i]!.socket.write(wire(path, `a.example:${deaf.port}`, fieldsOf("billing")));
  }
  await untilDialling(deaf.port, 2);
  const before = (await proxy.untilStatus(() => true)).policy!.hash;
  replace(proxy.policyFile, document(everything("default"), { proxy: { timeouts: { connectSeconds: 20 } } }));
  await proxy.untilStatus((status) => status.policy!.hash !== before);
  deaf.hear();
  for (const client of clients) {
    await client.untilEnd(15_000);
    assert.match(client.text, /^HTTP\/1\.1 403 egress-denied: this client is no longer in the policy\r\n/);
    client.socket.destroy();
  }
  await proxy.waitRecord(() => proxy.records().length === 2);
  for (const { verdict, code, entry } of proxy.records())
    assert.deepEqual([verdict, code, entry], ["deny", "client", "billing"]);
  assert.equal(await proxy.stop(), 0);
  await far.close();
});
