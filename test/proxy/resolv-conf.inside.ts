import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import type { DnsAnswer } from "../../proxy/dns/answer.ts";
import { Names } from "../../proxy/dns/names.ts";
import { formatAddress } from "../../proxy/policy/cidr.ts";
import { type DnsReply, startDns } from "../harness/dns.ts";
import { finish } from "../harness/finish.ts";
import { manifest, OPEN_LOOPBACK, OUTRIDER, startProxy, tempFolder } from "../harness/proxy.ts";
import { exchange, listen } from "../harness/raw.ts";

/** Runs a command with this file as /etc/resolv.conf, in a mount namespace of its own. */
function withResolvConf(file: string): string[] {
  return ["unshare", "--mount", "sh", "-c", `mount --bind ${file} /etc/resolv.conf && exec "$@"`, "sh"];
}

/** Explains a name with this text in resolv.conf; returns the output. */
async function explain(resolvConf: string, name: string): Promise<string> {
  const folder = tempFolder();
  writeFileSync(join(folder, "policy.json"), manifest({}));
  writeFileSync(join(folder, "resolv.conf"), resolvConf);
  const command = [OUTRIDER, "explain", "--policy", join(folder, "policy.json"), ...OPEN_LOOPBACK, "--resolve", name];
  const [program, ...args] = [...withResolvConf(join(folder, "resolv.conf")), ...command];
  const child = spawn(program!, args, { stdio: ["ignore", "pipe", "pipe"] });
  const { stdout } = await finish(child);
  return stdout;
}

async function startOn(t: TestContext, host: string, reply: string | DnsReply | Promise<DnsReply>) {
  const zone = (_: string, type: string) => {
    if (typeof reply !== "string" || reply === "silent") return reply as DnsReply;
    return { addresses: type === "A" ? [reply] : [] };
  };
  const dns = await startDns(zone, { host, port: 53 });
  t.after(() => dns.close());
  return dns;
}

test("uses the first name server that answers", async (t) => {
  await startOn(t, "127.0.0.53", "127.0.0.5");
  // The first one has no listener.
  const text = "search a.test\nnameserver 127.0.0.9\nnameserver 127.0.0.53\noptions ndots:5\n";
  assert.match(await explain(text, "hooks.test:443"), / {2}address {2}127\.0\.0\.5 /);
});

test("uses the second name server after an error of the first one", async (t) => {
  await startOn(t, "127.0.0.52", { rcode: "REFUSED" });
  await startOn(t, "127.0.0.53", "127.0.0.5");
  const text = "nameserver 127.0.0.52\nnameserver 127.0.0.53\n";
  assert.match(await explain(text, "hooks.test:443"), / {2}address {2}127\.0\.0\.5 /);
});

test("uses this machine without a name server", async (t) => {
  await startOn(t, "127.0.0.1", "127.0.0.6");
  assert.match(await explain("options ndots:5\n", "hooks.test:443"), / {2}address {2}127\.0\.0\.6 /);
});

test("a missing name server is a failure of the name", async () => {
  const text = await explain("nameserver 127.0.0.9\n", "hooks.test:443");
  assert.match(text, /unknown[\s\S]*cannot resolve hooks\.test: no resolver answers/);
});

/** A proxy with a resolv.conf that the test writes. `get`: the status of a request for a name. */
async function setUpProxy(t: TestContext, text: string) {
  const file = join(tempFolder(), "resolv.conf");
  const write = (next: string) => writeFileSync(file, next);
  write(text);
  const far = await listen((socket) =>
    socket.on("data", () => socket.end("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi")),
  );
  const args = ["--dns-seconds", "1", ...OPEN_LOOPBACK];
  const proxy = await startProxy({ policy: {}, args, within: withResolvConf(file) });
  t.after(async () => {
    await proxy.stop();
    await far.close();
  });
  const get = async (host: string): Promise<number> => {
    const head = `GET http://${host}:${far.port}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`;
    return Number((await exchange(proxy.port, head)).slice(9, 12));
  };
  const untilLogged = async (wanted: RegExp) => {
    for (let i = 0; i < 200 && !wanted.test(proxy.stderr()); i++) await new Promise((go) => setTimeout(go, 50));
    assert.match(proxy.stderr(), wanted);
  };
  return { proxy, write, get, untilLogged };
}

const CHANGED = /"resolvers":\["127\.0\.0\.54"\][^\n]*the name servers of resolv\.conf have changed/;

test("a running proxy uses the servers of a changed resolv.conf", async (t) => {
  const old = await startOn(t, "127.0.0.53", "silent");
  await startOn(t, "127.0.0.54", "127.0.0.1");
  const { write, get, untilLogged } = await setUpProxy(t, "nameserver 127.0.0.53\n");
  assert.equal(await get("hooks.test"), 504);
  write("nameserver 127.0.0.54\n");
  await untilLogged(CHANGED);
  // The failure is not used any longer.
  assert.equal(await get("hooks.test"), 200);
  const before = old.queries.length;
  assert.equal(await get("other.test"), 200);
  assert.equal(old.queries.length, before);
});

test("a running proxy keeps its servers when resolv.conf has none", async (t) => {
  await startOn(t, "127.0.0.53", "127.0.0.1");
  await startOn(t, "127.0.0.54", "127.0.0.1");
  const { write, get, untilLogged } = await setUpProxy(t, "nameserver 127.0.0.53\n");
  assert.equal(await get("hooks.test"), 200);
  write("# rewritten\n");
  await untilLogged(/resolv\.conf: no name server; the last name servers stay in use/);
  assert.equal(await get("other.test"), 200);
  write("nameserver 127.0.0.54\n");
  await untilLogged(CHANGED);
  assert.equal(await get("third.test"), 200);
});

test("SIGHUP does not forget answers of unchanged servers", async (t) => {
  const dns = await startOn(t, "127.0.0.53", "127.0.0.1");
  const { proxy, get } = await setUpProxy(t, "nameserver 127.0.0.53\n");
  assert.equal(await get("hooks.test"), 200);
  const before = dns.queries.length;
  proxy.signal("SIGHUP");
  for (let i = 0; i < 200 && proxy.stderr().split("policy loaded").length < 3; i++) {
    await new Promise((go) => setTimeout(go, 20));
  }
  assert.equal(await get("hooks.test"), 200);
  assert.equal(dns.queries.length, before);
});

test("an answer of a former server is not cached", async (t) => {
  const held = Promise.withResolvers<DnsReply>();
  const old = await startOn(t, "127.0.0.53", held.promise);
  await startOn(t, "127.0.0.54", "127.0.0.2");
  const resolvConf = join(tempFolder(), "resolv.conf");
  writeFileSync(resolvConf, "nameserver 127.0.0.53\n");
  const names = new Names({ servers: [], timeoutSeconds: 20, hosts: new Map(), resolvConf });
  t.after(() => names.close());
  const look = async () => {
    const answer = await new Promise<DnsAnswer>((resolve) => names.lookup("hooks.test", resolve));
    return "code" in answer ? answer.code : answer.addresses.map(formatAddress).join();
  };
  const first = look();
  for (let i = 0; i < 200 && old.queries.length < 2; i++) await new Promise((go) => setTimeout(go, 10));
  writeFileSync(resolvConf, "nameserver 127.0.0.54\n");
  assert.deepEqual(names.rereadServers(), ["127.0.0.54"]);
  held.resolve({ addresses: ["127.0.0.1"] });
  assert.equal(await first, "127.0.0.1");
  assert.equal(await look(), "127.0.0.2");
  rmSync(resolvConf);
  assert.throws(() => names.rereadServers(), /no name server/);
  assert.equal(await look(), "127.0.0.2");
});
