import assert from "node:assert/strict";
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { createServer as createTlsServer } from "node:https";
import type { AddressInfo } from "node:net";
import { after, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import pino from "pino";
import { Verifier } from "../../proxy/egress/verifier.ts";
import { readDocument } from "../../proxy/policy/document.ts";
import { makeCertificate, opensslMissing } from "../harness/certificate.ts";
import { deafListener, untilDialling } from "../harness/deaf.ts";
import { manifest, OPEN_LOOPBACK, type ProxyHandle, runOutrider, startProxy, tempFolder } from "../harness/proxy.ts";
import { exchange, listen, RawClient } from "../harness/raw.ts";

const RIGHT = "203.0.113.10";
const WRONG = "198.51.100.66";
const missing = opensslMissing();

const open: { close: () => unknown }[] = [];
after(() => {
  for (const server of open) server.close();
});

/** An echo server whose answers the test chooses; null: it accepts and sends nothing. */
async function startEcho(tls?: { key: Buffer; cert: Buffer }, host = "127.0.0.1") {
  const state = { say: null as ((response: ServerResponse) => void) | null, asked: 0 };
  const answer = (_: IncomingMessage, response: ServerResponse) => {
    state.asked++;
    state.say?.(response);
  };
  const server = tls === undefined ? createServer(answer) : createTlsServer(tls, answer);
  open.push({ close: () => server.close() && server.closeAllConnections() });
  server.listen(0, host);
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  /** Waits for this many more requests. */
  const untilAsked = async (more: number) => {
    for (const wanted = state.asked + more; state.asked < wanted; ) await sleep(50);
  };
  return {
    state,
    untilAsked,
    port,
    url: `http${tls ? "s" : ""}://${tls ? "echo.example" : host === "::1" ? "[::1]" : host}:${port}/ip`,
  };
}

const says =
  (body: string, status = 200) =>
  (response: ServerResponse) =>
    response.writeHead(status, status === 302 ? { location: "/ip" } : {}).end(body);

const policyOf = (echoURLs: string[], more: object = {}) => ({
  staticIPs: [{ address: RIGHT }],
  verification: { echoURLs, intervalSeconds: 1, timeoutSeconds: 1, staleAfterSeconds: 3, ...more },
});

/** A receiver, and requests to it; counts those that arrived. */
async function startReceiver(proxy: () => ProxyHandle) {
  const state = { arrived: 0 };
  const far = await listen((socket) => {
    socket.on("data", () => {
      state.arrived++;
      socket.end("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
    });
  });
  const wires = [
    `CONNECT 127.0.0.1:${far.port} HTTP/1.1\r\n\r\nhello`,
    `GET http://127.0.0.1:${far.port}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`,
  ];
  const ask = (count: number) =>
    Promise.all(Array.from({ length: count }, (_, i) => exchange(proxy().port, wires[i % 2]!)));
  return { ...far, state, ask };
}

const proven = (status: { verification: { verified: boolean }[] }) => status.verification.every((one) => one.verified);
const unproven = (status: { verification: { verified: boolean }[] }) => !proven(status);

test("only requests sent while proven arrive", async () => {
  const echo = await startEcho();
  const proxy = await startProxy({ policy: policyOf([echo.url]), args: OPEN_LOOPBACK });
  const far = await startReceiver(() => proxy);
  const refused = async (reason: RegExp) => {
    for (const answer of await far.ask(20)) {
      assert.match(answer, /^HTTP\/1\.1 503 egress-unavailable: /);
      assert.match(answer, reason);
      assert.match(answer, /\r\nRetry-After: 1\r\n/);
    }
    assert.deepEqual((await proxy.admin("/readyz")).status, 503);
  };
  const passed = async () => {
    const before = far.state.arrived;
    for (const answer of await far.ask(20)) assert.match(answer, /^HTTP\/1\.1 200 /);
    assert.equal(far.state.arrived, before + 20);
  };
  await proxy.untilStatus((status) => /did not answer within/.test(status.verification[0]?.error ?? ""));
  await refused(/the source address 203\.0\.113\.10 is not proven yet/);
  assert.equal(far.state.arrived, 0);

  echo.state.say = says(`${RIGHT}\n`);
  await proxy.untilStatus(proven);
  assert.equal((await proxy.admin("/readyz")).status, 200);
  await passed();

  // Opened before the last good round: it keeps its source address.
  const quiet = await listen((socket) => socket.pipe(socket));
  const old = await RawClient.open(proxy.port);
  await old.connect(`127.0.0.1:${quiet.port}`);
  await echo.untilAsked(2);
  await proxy.untilStatus(proven);
  let wrongs = 0;
  echo.state.say = (response) => {
    wrongs++;
    says(WRONG)(response);
  };
  const young = await RawClient.open(proxy.port);
  await young.connect(`127.0.0.1:${quiet.port}`);
  await proxy.untilStatus(unproven);
  assert.equal(wrongs, 1, "the first wrong answer closes the gate");
  await young.until(() => young.socket.destroyed, "end of the unproven tunnel");
  old.socket.write("unharmed");
  await old.untilText("unharmed");
  old.socket.destroy();
  const record = await proxy.waitRecord((r) => r.close === "unproven");
  assert.equal(record.verdict, "allow");
  await refused(/requests leave from 198\.51\.100\.66, not from 203\.0\.113\.10/);

  echo.state.say = null;
  await echo.untilAsked(2);
  await refused(/requests leave from 198\.51\.100\.66/);

  echo.state.say = says(JSON.stringify({ ip: RIGHT, more: 1 }));
  await proxy.untilStatus(proven);
  await passed();
  assert.equal(far.state.arrived, 40);
  const { text } = await proxy.admin("/metrics");
  assert.match(text, /outrider_proxy_egress_verified\{address="ipv4"\} 1\n/);
  assert.match(text, /outrider_proxy_egress_mismatch_total [1-9]/);

  // Silence after a proof: it holds for staleAfterSeconds, then the gate closes.
  echo.state.say = null;
  await passed();
  await proxy.untilStatus(unproven);
  await refused(/the source address 203\.0\.113\.10 is not proven any more/);
  assert.equal(await proxy.stop(), 0);
  for (const server of [far, quiet]) await server.close();
});

test("--ports does not close the ports of echo URLs", async (t) => {
  const echo = await startEcho();
  echo.state.say = says(RIGHT);
  const args = [...OPEN_LOOPBACK, "--ports", "443"];
  const proxy = await startProxy({ policy: policyOf([echo.url]), args });
  t.after(() => proxy.stop());
  await proxy.untilStatus(proven);
});

test("a wrong answer prevents a proof, silence does not", async () => {
  const [one, two] = [await startEcho(), await startEcho()];
  one.state.say = says(RIGHT);
  two.state.say = says(WRONG);
  const proxy = await startProxy({ policy: policyOf([one.url, two.url]), args: OPEN_LOOPBACK });
  await proxy.untilStatus((status) => /saw 198\.51\.100\.66/.test(status.verification[0]?.error ?? ""));
  await one.untilAsked(2);
  assert.equal(proven(await proxy.untilStatus(() => true)), false);
  two.state.say = null;
  await proxy.untilStatus(proven);
  await proxy.stop();
});

test("an invalid echo answer is reported and is no proof", async () => {
  const echo = await startEcho();
  const rows: [(response: ServerResponse) => void, RegExp][] = [
    [says("", 302), /answered 302; redirects are not followed/],
    [says("", 500), /answered 500/],
    [says("<html>203.0.113.10</html>"), /neither an address nor JSON with ip/],
    [says("203.0.113.10, 10.0.0.1"), /neither an address nor JSON with ip/],
    [says("{"), /broken JSON/],
    [says('{"address":"203.0.113.10"}'), /neither an address nor JSON with ip/],
    [says("x".repeat(20_000)), /more than 16384 bytes/],
    [(response) => response.destroy(), /closed without an answer|ECONNRESET|socket hang up/],
  ];
  echo.state.say = rows[0]![0];
  const proxy = await startProxy({ policy: policyOf([echo.url]), args: OPEN_LOOPBACK });
  for (const [say, expected] of rows) {
    echo.state.say = say;
    const status = await proxy.untilStatus((now) => expected.test(now.verification[0]?.error ?? ""));
    assert.equal(proven(status), false);
  }
  await proxy.stop();
});

test("onUnverified Allow: allows requests and reports the state", async () => {
  const echo = await startEcho();
  echo.state.say = says(WRONG);
  const proxy = await startProxy({ policy: policyOf([echo.url], { onUnverified: "Allow" }), args: OPEN_LOOPBACK });
  const far = await startReceiver(() => proxy);
  await proxy.untilStatus((status) => status.verification[0]?.observed[0] === WRONG);
  for (const answer of await far.ask(4)) assert.match(answer, /^HTTP\/1\.1 200 /);
  assert.equal((await proxy.admin("/readyz")).status, 200);
  await proxy.stop();
  await far.close();
});

test("a reload keeps a proof only if it is still right", async () => {
  const echo = await startEcho();
  echo.state.say = says(RIGHT);
  const proxy = await startProxy({ policy: policyOf([echo.url]), args: [...OPEN_LOOPBACK, "--readiness", "policy"] });
  const far = await startReceiver(() => proxy);
  await proxy.untilStatus(proven);
  echo.state.say = null;
  const reload = async (spec: object) => {
    const before = (await proxy.untilStatus(() => true)).policy!.hash;
    writeFileSync(proxy.policyFile, manifest(spec));
    proxy.signal("SIGHUP");
    return proxy.untilStatus((status) => status.policy!.hash !== before);
  };
  assert.ok(proven(await reload(policyOf([echo.url], { staleAfterSeconds: 500 }))));
  assert.match((await far.ask(1))[0]!, /^HTTP\/1\.1 200 /);
  const moved = await reload({ ...policyOf([echo.url]), staticIPs: [{ address: "203.0.113.99" }] });
  assert.equal(proven(moved), false);
  assert.match((await far.ask(1))[0]!, /^HTTP\/1\.1 503 egress-unavailable/);
  assert.equal((await proxy.admin("/readyz")).status, 200);
  await proxy.stop();
  await far.close();
});

test("removing an address resets only its connections", async () => {
  const NEXT = "203.0.113.11";
  const echo = await startEcho();
  echo.state.say = says(RIGHT);
  const both = { ...policyOf([echo.url]), staticIPs: [{ address: RIGHT }, { address: NEXT }] };
  const proxy = await startProxy({ policy: both, args: OPEN_LOOPBACK });
  await proxy.untilStatus(proven);
  let ended = 0;
  const far = await listen((socket) => {
    socket.on("data", () => socket.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
    socket.on("close", () => ended++);
    socket.on("end", () => socket.end());
  });
  const tunnel = async () => {
    const client = await RawClient.open(proxy.port);
    client.socket.write(`CONNECT 127.0.0.1:${far.port} HTTP/1.1\r\n\r\n`);
    await client.until(() => client.text.startsWith("HTTP/1.1 200 "), "tunnel");
    return client;
  };
  const wire = `GET http://127.0.0.1:${far.port}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`;
  const early = await tunnel();
  assert.match(await exchange(proxy.port, wire), /^HTTP\/1\.1 200 /);
  // The NAT changes: from the next round on, only the second address is seen.
  echo.state.say = says(NEXT);
  await echo.untilAsked(2);
  const late = await tunnel();
  const kept = far.sockets.size;
  const before = (await proxy.untilStatus(() => true)).policy!.hash;
  writeFileSync(proxy.policyFile, manifest({ ...policyOf([echo.url]), staticIPs: [{ address: NEXT }] }));
  proxy.signal("SIGHUP");
  const status = await proxy.untilStatus(({ policy }) => policy!.hash !== before);
  assert.ok(proven(status), "what the last round saw is still right");
  await early.until(() => early.error !== null || early.ended, "end of the early tunnel");
  while (ended < kept - 1) await sleep(20);
  assert.match(await exchange(proxy.port, wire), /^HTTP\/1\.1 200 /);
  late.socket.write("hello");
  await late.until(() => late.text.endsWith("\r\n\r\nok"), "answer by the late tunnel");
  const unprovenRecords = () => proxy.records().filter(({ close }) => close === "unproven");
  await proxy.waitRecord(({ close }) => close === "unproven");
  assert.equal(unprovenRecords().length, 1);
  late.socket.destroy();
  await proxy.stop();
  await far.close();
});

test("removing an address resets its connections after later edits", async () => {
  for (const between of [{ staticIPs: [] }, { verification: undefined }]) {
    const removed: [string, number][] = [];
    let now = 0;
    const verifier = new Verifier({
      ask: async () => RIGHT,
      log: pino({ level: "silent" }),
      onWrong: () => undefined,
      onRemoved: (way, until) => removed.push([way, until]),
      now: () => ++now,
    });
    const document = (spec: object) =>
      readDocument({
        ...{ version: 1, policy: "test/verify", staticIPs: [{ address: RIGHT }] },
        verification: { echoURLs: ["http://127.0.0.1/"], onUnverified: "Allow" },
        ...spec,
      });
    verifier.configure(document({}), []);
    while (!verifier.verified("ipv4")) await sleep(1);
    verifier.configure(document(between), []);
    assert.deepEqual(removed, []);
    const before = now;
    verifier.configure(document({ staticIPs: [{ address: "203.0.113.11" }] }), []);
    assert.equal(removed.length, 1);
    assert.equal(removed[0]![0], "ipv4");
    assert.ok(removed[0]![1] > before, "it was the last that was seen: all that is open ends");
    verifier.stop();
  }
});

for (const kind of ["CONNECT", "GET"] as const) {
  for (const [loss, reason] of [
    ["silence", /^HTTP\/1\.1 503 egress-unavailable: the source address 203\.0\.113\.10 is not proven any more/],
    ["a wrong answer", /^HTTP\/1\.1 503 egress-unavailable: the connection began before a wrong source address/],
  ] as const) {
    test(`refuses a ${kind} whose proof is lost during its dial: ${loss}`, async (t) => {
      const echo = await startEcho();
      echo.state.say = says(RIGHT);
      const proxy = await startProxy({
        policy: policyOf([echo.url]),
        args: [...OPEN_LOOPBACK, "--connect-seconds", "60"],
      });
      await proxy.untilStatus(proven);
      const deaf = await deafListener();
      t.after(deaf.close);
      const client = await RawClient.open(proxy.port);
      const target = `127.0.0.1:${deaf.port}`;
      const wire = kind === "GET" ? `GET http://${target}/ HTTP/1.1\r\nHost: x` : `CONNECT ${target} HTTP/1.1`;
      client.socket.write(`${wire}\r\n\r\n`);
      await untilDialling(deaf.port, 1);
      echo.state.say = loss === "silence" ? null : says(WRONG);
      await proxy.untilStatus(unproven, 20_000);
      if (loss === "a wrong answer") {
        // The gate is open again, but this connection may have left from the wrong address.
        echo.state.say = says(RIGHT);
        await proxy.untilStatus(proven);
      }
      deaf.hear();
      await client.untilEnd(30_000);
      assert.match(client.text, reason);
      assert.equal((await proxy.waitRecord((record) => record.target === target)).code, "unverified");
      client.socket.destroy();
      assert.equal(await proxy.stop(), 0);
    });
  }
}

test("POST /verify starts a round; a wrong answer empties the pool", async () => {
  const echo = await startEcho();
  echo.state.say = says(RIGHT);
  const policy = policyOf([echo.url], { intervalSeconds: 3600, staleAfterSeconds: 3600 });
  const proxy = await startProxy({ policy, args: OPEN_LOOPBACK });
  await proxy.untilStatus(proven);
  let ended = 0;
  const far = await listen((socket) => {
    socket.on("data", () => socket.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
    socket.on("close", () => ended++);
    socket.on("end", () => socket.end());
  });
  const wire = `GET http://127.0.0.1:${far.port}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`;
  assert.match(await exchange(proxy.port, wire), /^HTTP\/1\.1 200 /);
  assert.deepEqual([far.sockets.size, ended], [1, 0], "the upstream connection is kept");
  const asked = echo.state.asked;
  echo.state.say = says(WRONG);
  const response = await fetch(`http://127.0.0.1:${proxy.adminPort}/verify`, { method: "POST" });
  assert.equal(response.status, 202);
  await proxy.untilStatus(unproven);
  assert.equal(echo.state.asked, asked + 1);
  while (ended === 0) await sleep(20);
  assert.match(await exchange(proxy.port, wire), /^HTTP\/1\.1 503 /);
  await proxy.stop();
  await far.close();
});

test("verifies each family separately", async () => {
  const six = "2001:db8:5::10";
  const [echo4, echo6] = [await startEcho(), await startEcho(undefined, "::1")];
  echo4.state.say = says(WRONG);
  echo6.state.say = says(six);
  // Each family has its own echo server, without an address of the other family.
  const urls = [echo4.url, echo6.url];
  const policy = { ...policyOf(urls), staticIPs: [{ address: RIGHT }, { address: six }] };
  const proxy = await startProxy({ policy, args: OPEN_LOOPBACK, hosts: "127.0.0.1 both.example\n::1 both.example\n" });
  const status = await proxy.untilStatus((now) => now.verification.some((one) => one.verified));
  assert.deepEqual(
    status.verification.map(({ way, verified, observed }) => [way, verified, ...observed]),
    [
      ["ipv4", false, WRONG],
      ["ipv6", true, six],
    ],
  );
  assert.equal(status.ready, false, "a family that is not proven keeps the proxy from being ready");
  const far = await listen((socket) => socket.end("hi"), "::");
  const both = await exchange(proxy.port, `CONNECT both.example:${far.port} HTTP/1.1\r\n\r\n`);
  assert.match(both, /^HTTP\/1\.1 200 /);
  assert.equal((await proxy.waitRecord((r) => r.target.startsWith("both"))).address, "::1");
  const four = await exchange(proxy.port, `CONNECT 127.0.0.1:${far.port} HTTP/1.1\r\n\r\n`);
  assert.match(four, /^HTTP\/1\.1 503 egress-unavailable: requests leave from 198\.51\.100\.66/);
  await proxy.stop();
  await far.close();
});

test("verifies certificates of https echo URLs", {
  skip: missing ?? false,
}, async () => {
  const { key, cert } = makeCertificate(tempFolder(), ["echo.example"]);
  const echo = await startEcho({ key: readFileSync(key), cert: readFileSync(cert) });
  echo.state.say = says(RIGHT);
  const start = (env: Record<string, string>) =>
    startProxy({ policy: policyOf([echo.url]), args: OPEN_LOOPBACK, hosts: "127.0.0.1 echo.example\n", env });
  const stranger = await start({});
  await stranger.untilStatus((status) => /self-signed certificate/.test(status.verification[0]?.error ?? ""));
  await stranger.stop();

  const trusting = { NODE_EXTRA_CA_CERTS: cert };
  const proxy = await start({ ...trusting, PROXY_PASSWORD: "s3cret" });
  await proxy.untilStatus(proven);
  const verify = (args: string[]) => runOutrider(["verify", "--echo", echo.url, ...args], trusting);
  const good = await verify(["--proxy", proxy.url("", "s3cret"), "--expect", RIGHT]);
  assert.deepEqual([good.status, good.stdout], [0, `${echo.url}  ${RIGHT}  expected\n`]);
  const wrong = await verify(["--proxy", proxy.url("", "s3cret"), "--expect", "203.0.113.11"]);
  assert.deepEqual([wrong.status, wrong.stdout], [1, `${echo.url}  ${RIGHT}  not expected: 203.0.113.11\n`]);
  const locked = await verify(["--proxy", proxy.url("", "wrong")]);
  assert.equal(locked.status, 1);
  assert.match(locked.stdout, /no answer: the proxy answered 407 egress-auth: wrong proxy credentials/);
  const nothing = await verify(["--proxy", proxy.url("", "s3cret")]);
  assert.deepEqual([nothing.status, nothing.stdout], [0, `${echo.url}  ${RIGHT}\n`]);
  for (const [args, message] of [
    [["verify"], /--proxy URL is required/],
    [["verify", "--proxy", "http://127.0.0.1:1"], /--echo URL is required/],
    [["verify", "--proxy", "socks5://127.0.0.1:1", "--echo", echo.url], /--proxy must be an http URL/],
    [["verify", "--proxy", "http://127.0.0.1:1", "--echo", "x"], /--echo must be an http or https URL/],
    [
      ["verify", "--proxy", "http://127.0.0.1:1", "--echo", echo.url, "--expect", "x"],
      /--expect must be an IP address/,
    ],
  ] as const) {
    const result = await runOutrider([...args]);
    assert.equal(result.status, 2);
    assert.match(result.stderr, message);
  }
  await proxy.stop();
});
