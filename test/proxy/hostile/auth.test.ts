import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { Baseline } from "../../harness/baseline.ts";
import { OPEN_LOOPBACK, type ProxyHandle, runOutrider, startProxy, tempFolder } from "../../harness/proxy.ts";
import { exchange, listen, RawClient } from "../../harness/raw.ts";

/** Clients that guess passwords, or claim the name of another client. */

const basic = (text: string | Buffer): string =>
  `Proxy-Authorization: Basic ${Buffer.from(text).toString("base64")}\r\n`;
const latin1 = (text: string): Buffer => Buffer.from(text, "latin1");

/** A proxy with these password files, and a target that keeps tunnels open. */
async function start(t: TestContext, files: Record<string, string | Buffer>, limits: object = {}) {
  const folder = tempFolder();
  for (const [name, text] of Object.entries(files)) writeFileSync(join(folder, name), text);
  const far = await listen((socket) => socket.resume().on("end", () => socket.end()));
  t.after(far.close);
  const args = [...OPEN_LOOPBACK, "--password-dir", folder];
  const proxy = await startProxy({ policy: { proxy: { limits } }, args });
  return { proxy, far, folder };
}

const wire = (port: number, credentials: string | Buffer) =>
  `CONNECT 127.0.0.1:${port} HTTP/1.1\r\n${basic(credentials)}\r\n`;

async function tunnel(proxy: ProxyHandle, port: number, credentials: string | Buffer): Promise<RawClient> {
  const client = await RawClient.open(proxy.port);
  client.socket.write(wire(port, credentials));
  await client.untilText("HTTP/1.1 200 ");
  return client;
}

const refused = async (proxy: ProxyHandle, port: number, credentials: string | Buffer) =>
  (await exchange(proxy.port, wire(port, credentials))).split("\r\n")[0]!.slice(9, 12);

test("a name with its own password needs that password", async (t) => {
  const { proxy, far } = await start(t, {
    PROXY_PASSWORD: "shared",
    PROXY_PASSWORD_PREVIOUS: "older",
    billing: "b-pass",
  });
  const base = await Baseline.of(proxy);
  for (const pair of ["billing:shared", "billing:older", "billing:", "other:b-pass"]) {
    assert.equal(await refused(proxy, far.port, pair), "407", pair);
  }
  for (const pair of ["billing:b-pass", "other:shared", ":older"])
    (await tunnel(proxy, far.port, pair)).socket.destroy();
  await base.restored(7);
  assert.equal(proxy.records().filter((record) => record.client === "billing").length, 1);
  assert.equal(await proxy.stop(), 0);
});

test("counts clients with the shared password by address", async (t) => {
  const files = { PROXY_PASSWORD: "shared", billing: "b-pass", "127.0.0.1": "own" };
  const { proxy, far } = await start(t, files, { maxTunnelsPerClient: 2 });
  const base = await Baseline.of(proxy);
  const open = [await tunnel(proxy, far.port, "one:shared"), await tunnel(proxy, far.port, "two:shared")];
  assert.equal(await refused(proxy, far.port, "three:shared"), "503");
  // They cannot use up the tunnels of a client with a name, even if that name is an address.
  for (const pair of ["billing:b-pass", "billing:b-pass", "127.0.0.1:own", "127.0.0.1:own"]) {
    open.push(await tunnel(proxy, far.port, pair));
  }
  assert.equal(await refused(proxy, far.port, "billing:b-pass"), "503");
  for (const client of open) client.socket.destroy();
  await base.restored(8);
  assert.equal(await proxy.stop(), 0);
});

test("shows a claimed name so that it equals no other name", async (t) => {
  const long = `${"a".repeat(64)}bcd`;
  const { proxy, far } = await start(t, { PROXY_PASSWORD: "shared", [long]: "own" });
  const base = await Baseline.of(proxy);
  const claims: [user: string, shown: string][] = [
    ["billing\u200b", "billing%E2%80%8B"],
    ["bill\xffing", "bill%C3%BFing"],
    ["a b%20", "a%20b%2520"],
    [`${long}e`, `${"a".repeat(64)}%...`],
    ["", ""],
  ];
  for (const [user] of claims) (await tunnel(proxy, far.port, `${user}:shared`)).socket.destroy();
  (await tunnel(proxy, far.port, Buffer.concat([latin1("x\x9b\xff"), latin1(":shared")]))).socket.destroy();
  (await tunnel(proxy, far.port, `${long}:own`)).socket.destroy();
  await base.restored(claims.length + 2);
  const names = proxy.records().map((record) => record.client);
  for (const name of [...claims.map(([, shown]) => shown), "x%9B%FF", long]) assert.ok(names.includes(name), name);
  assert.equal(await proxy.stop(), 0);
});

test("a new password for a name resets tunnels that claimed it", async (t) => {
  const { proxy, far, folder } = await start(t, { PROXY_PASSWORD: "shared" });
  const base = await Baseline.of(proxy);
  const claimed = await tunnel(proxy, far.port, "shop:shared");
  const other = await tunnel(proxy, far.port, "other:shared");
  writeFileSync(join(folder, "shop"), "s-pass");
  proxy.signal("SIGHUP");
  await claimed.untilEnd();
  assert.equal((await proxy.waitRecord((record) => record.close === "revoked")).client, "shop");
  assert.equal(other.ended, false);
  other.socket.destroy();
  await base.restored(2);
  assert.equal(await proxy.stop(), 0);
});

test("compares passwords and names byte by byte", async (t) => {
  const files = { PROXY_PASSWORD: latin1("p\xe4ss\n"), user: latin1("\xff\xfe") };
  const { proxy, far } = await start(t, files);
  const base = await Baseline.of(proxy);
  const pair = (user: string, password: string) => Buffer.concat([latin1(`${user}:`), latin1(password)]);
  for (const wrong of [
    pair("", "p\xe5ss"),
    pair("", "p\xef\xbf\xbdss"),
    pair("user", "\xfd\xfc"),
    pair("user", "\xef\xbf\xbd\xef\xbf\xbd"),
  ]) {
    assert.equal(await refused(proxy, far.port, wrong), "407", wrong.toString("latin1"));
  }
  for (const right of [pair("", "p\xe4ss"), pair("user", "\xff\xfe")]) {
    (await tunnel(proxy, far.port, right)).socket.destroy();
  }
  await base.restored(6);
  assert.equal(await proxy.stop(), 0);
  const bad = await runOutrider(["proxy", "--policy", proxy.policyFile], { PROXY_PASSWORD: "\uFFFD" });
  assert.match(bad.stderr, /PROXY_PASSWORD: is not UTF-8/);
});

const GUESSES = 200;

test("delays the answers to wrong passwords only", async (t) => {
  const { proxy, far } = await start(t, { PROXY_PASSWORD: "shared" });
  const base = await Baseline.of(proxy);
  const times: number[] = [];
  const guess = async (i: number) => {
    const began = performance.now();
    assert.equal(await refused(proxy, far.port, `x:guess-${i}`), "407");
    times.push(performance.now() - began);
  };
  const all = Promise.all(Array.from({ length: GUESSES }, (_, i) => guess(i)));
  await proxy.waitRecord(() => proxy.records().length >= 50);
  const began = performance.now();
  (await tunnel(proxy, far.port, "x:shared")).socket.destroy();
  const took = performance.now() - began;
  await all;
  const late = times.filter((ms) => ms >= 900);
  assert.ok(late.length >= GUESSES / 2, `${late.length} of ${GUESSES} answers were late`);
  assert.ok(took < Math.min(...late), `a right password took ${took} ms`);
  await base.restored(GUESSES + 1);
  assert.match((await proxy.admin("/metrics")).text, /outrider_proxy_bound_total\{bound="password-guesses"\} 1\d\d\n/);
  assert.equal(await proxy.stop(), 0);
});

test("logs control characters of clients as escapes only", async (t) => {
  const { proxy } = await start(t, { PROXY_PASSWORD: "shared" });
  const base = await Baseline.of(proxy);
  const head = Buffer.concat([
    latin1("CONNECT a\x9b31m\xad.example:443 HTTP/1.1\r\n"),
    latin1(basic("x\u009b2J:shared")),
    latin1("\r\n"),
  ]);
  await exchange(proxy.port, head);
  await exchange(proxy.port, wire(1, latin1("evil\x85\x9b\u2028:shared")));
  await base.restored(2);
  assert.equal(proxy.unprintable(), "");
  assert.equal(await proxy.stop(), 0);
});
