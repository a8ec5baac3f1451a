import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { type Play, relays, sends, startHop } from "../harness/hop.ts";
import { manifest, OPEN_LOOPBACK, type ProxyOptions, startProxy, tempFolder } from "../harness/proxy.ts";
import { exchange, listen, RawClient } from "../harness/raw.ts";

/** An upstream proxy behind the proxy, real ones excepted (chain-proxies.test.ts). */

const open: (() => unknown)[] = [];
after(async () => {
  for (const close of open.reverse()) await close();
});

async function startFar() {
  const far = await listen((socket) => {
    socket.on("data", (chunk) => {
      const text = chunk.toString("latin1");
      if (text.startsWith("GET ")) socket.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
      else socket.write(chunk);
    });
    socket.on("end", () => socket.end());
  });
  open.push(far.close);
  return far;
}

async function startHopped(play?: Play) {
  const hop = await startHop(play);
  open.push(hop.close);
  return hop;
}

async function start(spec: object, options: ProxyOptions = {}) {
  const args = [...OPEN_LOOPBACK, ...(options.args ?? [])];
  const hosts = "127.0.0.1 far.example\n127.0.0.1 hop.example\n";
  const proxy = await startProxy({ hosts, policy: spec, ...options, args });
  open.push(() => proxy.stop());
  return proxy;
}

const get = (target: string) => `GET http://${target}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`;

for (const resolve of ["Local", "Upstream"] as const) {
  test(`resolve ${resolve}: both data paths go through the upstream proxy`, async () => {
    const [far, hop] = [await startFar(), await startHopped()];
    const proxy = await start({ upstreamProxy: { url: hop.url, resolve } });
    if (resolve === "Upstream") {
      hop.state.play = (socket, authority, head) =>
        relays()(socket, authority.replace("far.example", "127.0.0.1"), head);
    }
    const client = await RawClient.open(proxy.port);
    await client.connect(`far.example:${far.port}`, "hello");
    await client.untilText("hello");
    client.socket.end();
    await client.untilEnd();
    const text = await exchange(proxy.port, get(`far.example:${far.port}`));
    assert.match(text, /^HTTP\/1\.1 200 OK\r\n[\s\S]*ok$/);
    const host = resolve === "Local" ? "127.0.0.1" : "far.example";
    const connects = hop.state.heads.map((head) => head.split("\r\n"));
    const expected = [`CONNECT ${host}:${far.port} HTTP/1.1`, `Host: ${host}:${far.port}`, "", ""];
    assert.deepEqual(connects, [expected, expected]);
    const [tunnel, request] = [
      await proxy.waitRecord(({ kind }) => kind === "connect"),
      await proxy.waitRecord(({ kind }) => kind === "http"),
    ];
    for (const record of [tunnel, request]) {
      assert.deepEqual([record.verdict, record.code, record.rule], ["allow", undefined, "default"]);
      assert.equal(record.upstreamProxy, `127.0.0.1:${hop.port}`);
      assert.equal(record.address, resolve === "Local" ? "127.0.0.1" : undefined);
    }
  });
}

test("Local: the name of a target never reaches the upstream proxy", async () => {
  const [far, hop] = [await startFar(), await startHopped()];
  const proxy = await start({ upstreamProxy: { url: hop.url } });
  const client = await RawClient.open(proxy.port);
  await client.connect(`far.example:${far.port}`, "hello");
  await client.untilText("hello");
  client.socket.destroy();
  assert.doesNotMatch(hop.state.wire, /example/);
});

test("Local: denied targets and addresses never reach the upstream proxy", async () => {
  const hop = await startHopped();
  const proxy = await start({ upstreamProxy: { url: hop.url }, deny: [{ hosts: ["far.example"] }] });
  for (const [target, code] of [
    ["far.example:443", "denied-rule"],
    ["169.254.169.254:80", "address"],
    ["10.0.0.1:443", "address"],
    [`127.0.0.1:${proxy.port}`, "address"],
  ]) {
    const text = await exchange(proxy.port, `CONNECT ${target} HTTP/1.1\r\n\r\n`);
    assert.match(text, /^HTTP\/1\.1 403 egress-denied: /, target);
    assert.equal((await proxy.waitRecord((record) => record.target === target)).code, code);
  }
  assert.deepEqual(hop.state.heads, []);
});

test("Upstream: host rules and classes of IP addresses still refuse", async () => {
  const hop = await startHopped(sends("HTTP/1.1 200 OK\r\n\r\n"));
  const proxy = await start({
    upstreamProxy: { url: hop.url, resolve: "Upstream" },
    defaultAction: "Deny",
    allow: [
      { hosts: ["*.ok.example"] },
      { hosts: ["some.example"], cidrs: ["93.184.216.0/24"] },
      { cidrs: ["93.184.216.34/32"] },
    ],
    deny: [{ hosts: ["bad.ok.example"] }],
  });
  const ask = async (target: string) => {
    const client = await RawClient.open(proxy.port);
    client.socket.write(`CONNECT ${target} HTTP/1.1\r\n\r\n`);
    await client.untilText("\r\n\r\n");
    client.socket.destroy();
    return (await proxy.waitRecord((record) => record.target === target)).code;
  };
  assert.equal(await ask("a.ok.example:443"), undefined);
  assert.equal(await ask("bad.ok.example:443"), "denied-rule");
  assert.equal(await ask("other.example:443"), "not-allowed");
  // The rule admits some addresses only, which were not checked.
  assert.equal(await ask("some.example:443"), "not-allowed");
  assert.equal(await ask("93.184.216.34:443"), undefined);
  assert.equal(await ask("169.254.169.254:443"), "address");
  for (const text of ["127.1:80", "0x7f.1:80", "2130706433:80", "[::ffff:169.254.169.254]:80"]) {
    const answer = await exchange(proxy.port, `CONNECT ${text} HTTP/1.1\r\n\r\n`);
    assert.match(answer, /^HTTP\/1\.1 40[03] /, text);
  }
  assert.deepEqual(
    hop.state.heads.map((head) => head.split(" ")[1]),
    ["a.ok.example:443", "93.184.216.34:443"],
  );
  const { text } = await proxy.admin("/explain?target=https://a.ok.example");
  assert.match(text, /the upstream proxy resolves the name/);
});

test("Upstream by default: special-purpose addresses are refused", async () => {
  const hop = await startHopped();
  const proxy = await start({ upstreamProxy: { url: hop.url, resolve: "Upstream" } });
  for (const target of ["169.254.169.254:80", "10.0.0.1:443", "[::ffff:10.0.0.1]:443", `127.0.0.1:${proxy.port}`]) {
    assert.match(await exchange(proxy.port, `CONNECT ${target} HTTP/1.1\r\n\r\n`), /^HTTP\/1\.1 403 egress-denied/);
  }
  const closed = await startProxy({ policy: { upstreamProxy: { url: hop.url, resolve: "Upstream" } } });
  open.push(() => closed.stop());
  for (const target of ["localhost:443", "db.localhost:5432"]) {
    const text = await exchange(closed.port, `CONNECT ${target} HTTP/1.1\r\n\r\n`);
    assert.match(text, /^HTTP\/1\.1 403 egress-denied: \S+ resolves to a loopback address/, target);
  }
  assert.deepEqual(hop.state.heads, []);
  assert.match(proxy.stderr(), /the address of a name is not checked/);
});

const big = `X-A: ${"a".repeat(20_000)}\r\n`;
const FAILURES: [name: string, play: Play, status: number, code: string, reason: RegExp][] = [
  [
    "407",
    sends("HTTP/1.1 407 Auth\r\nProxy-Authenticate: Basic realm=corp\r\n\r\n"),
    502,
    "upstream-auth",
    /answered 407 to this proxy, which has no credentials for it/,
  ],
  [
    "403",
    sends("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"),
    502,
    "upstream-refused",
    /answered 403; it must allow CONNECT to IP addresses, and to port \d+/,
  ],
  ["302", sends("HTTP/1.1 302 Found\r\nLocation: http://login.corp/\r\n\r\n"), 502, "upstream-refused", /answered 302/],
  ["503", sends("HTTP/1.1 503 Unavailable\r\n\r\n"), 502, "upstream-refused", /answered 503/],
  ["101", sends("HTTP/1.1 101 Switching\r\n\r\n"), 502, "upstream-refused", /answered 101/],
  [
    "endless 1xx",
    sends("HTTP/1.1 100 Continue\r\n\r\n".repeat(1000)),
    502,
    "upstream-answer",
    /more than 8 interim responses/,
  ],
  ["a long head", sends(`HTTP/1.1 200 OK\r\n${big}\r\n`), 502, "upstream-answer", /longer than 16384 bytes/],
  ["an endless line", sends(`HTTP/1.1 200 ${"a".repeat(100_000)}`), 502, "upstream-answer", /longer than 16384 bytes/],
  ["garbage", sends("SSH-2.0-OpenSSH\r\n\r\n"), 502, "upstream-answer", /broken HTTP/],
  ["TLS", sends("\x15\x03\x01\x00\x02\x02\x46\n\n"), 502, "upstream-answer", /broken HTTP/],
  ["an end", (socket) => socket.end(), 502, "upstream-answer", /closed the connection without an answer/],
  [
    "half a head and an end",
    (socket) => socket.end("HTTP/1.1 200 O"),
    502,
    "upstream-answer",
    /closed the connection without an answer/,
  ],
  ["a reset", (socket) => socket.resetAndDestroy(), 502, "upstream-answer", /closed the connection without an answer/],
  ["silence", () => {}, 504, "upstream-timeout", /did not answer within 1 s/],
  [
    "a head that drips",
    (socket) => {
      socket.write("HTTP/1.1 200 OK\r\n");
      const timer = setInterval(() => socket.write("X-A: b\r\n"), 50);
      socket.on("close", () => clearInterval(timer));
    },
    504,
    "upstream-timeout",
    /did not answer within 1 s/,
  ],
];

test("each failure of the upstream proxy has its own refusal, on both data paths", async (t) => {
  const [far, hop] = [await startFar(), await startHopped()];
  const proxy = await start({ upstreamProxy: { url: hop.url } }, { args: ["--connect-seconds", "1"] });
  const target = `far.example:${far.port}`;
  for (const [name, play, status, code, reason] of FAILURES) {
    await t.test(name, async () => {
      hop.state.play = play;
      for (const wire of [`CONNECT ${target} HTTP/1.1\r\nProxy-Authorization: Basic YTpi\r\n\r\n`, get(target)]) {
        const seen = proxy.records().length;
        const text = await exchange(proxy.port, wire);
        assert.match(text, new RegExp(`^HTTP/1\\.1 ${status} egress-upstream: the upstream proxy `));
        assert.match(text.split("\r\n")[0]!, reason);
        assert.doesNotMatch(text, /Proxy-Authenticate|corp|127\.0\.0\.1/);
        await proxy.waitRecord((record) => record.code === code && proxy.records().indexOf(record) >= seen);
      }
      while (hop.state.open > 0) await sleep(10);
    });
  }
  assert.doesNotMatch(
    hop.state.wire,
    /Proxy-Authorization/i,
    "credentials of the client never reach the upstream proxy",
  );
  const record = await proxy.waitRecord(({ code }) => code === "upstream-refused");
  assert.equal(record.verdict, "allow", "the policy did not deny it");
});

test("an upstream proxy that cannot be reached has its own failure", async () => {
  const gone = await startHop();
  await gone.close();
  const proxy = await start({ upstreamProxy: { url: gone.url } });
  const text = await exchange(proxy.port, "CONNECT far.example:443 HTTP/1.1\r\n\r\n");
  assert.match(text, /^HTTP\/1\.1 502 egress-upstream: the upstream proxy refused the connection\r\n/);
  const unknown = await start(
    { upstreamProxy: { url: "http://nowhere.example:3128" } },
    { args: ["--resolver", `127.0.0.1:${gone.port}`, "--dns-seconds", "1"] },
  );
  const unresolved = await exchange(unknown.port, "CONNECT far.example:443 HTTP/1.1\r\n\r\n");
  assert.match(unresolved, /^HTTP\/1\.1 50[24] egress-upstream: the name of the upstream proxy cannot be resolved\r\n/);
});

test("the upstream proxy gets no metadata, link-local or own address", async () => {
  for (const address of ["169.254.169.254", "fe80::1", "168.63.129.16"]) {
    const proxy = await start(
      { upstreamProxy: { url: "http://hop.example:3128" } },
      { hosts: `${address} hop.example\n` },
    );
    const text = await exchange(proxy.port, "CONNECT 93.184.216.34:443 HTTP/1.1\r\n\r\n");
    assert.match(
      text,
      /^HTTP\/1\.1 502 egress-upstream: the upstream proxy resolves to a (cloud metadata|link-local) address/,
    );
    await proxy.stop();
  }
  // Loopback, which is this machine, is closed without --allow-cidr.
  const hop = await startHopped();
  const closed = await startProxy({ policy: { upstreamProxy: { url: hop.url } } });
  open.push(() => closed.stop());
  const text = await exchange(closed.port, "CONNECT 93.184.216.34:443 HTTP/1.1\r\n\r\n");
  assert.match(text, /^HTTP\/1\.1 502 egress-upstream: the upstream proxy is a loopback address/);
  const self = await start({ upstreamProxy: { url: "http://127.0.0.1:1" } });
  writeFileSync(self.policyFile, manifest({ upstreamProxy: { url: `http://127.0.0.1:${self.port}` } }));
  const { policy } = await self.untilStatus(() => true);
  self.signal("SIGHUP");
  await self.untilStatus((status) => status.policy!.hash !== policy!.hash);
  const loop = await exchange(self.port, "CONNECT far.example:443 HTTP/1.1\r\n\r\n");
  assert.match(loop, /^HTTP\/1\.1 502 egress-upstream: the upstream proxy is this proxy itself/);
  assert.deepEqual(hop.state.heads, []);
});

test("keeps the bytes behind the 2xx, and answers 2xx of every kind", async () => {
  const hop = await startHopped();
  const proxy = await start({ upstreamProxy: { url: hop.url } });
  for (const answer of [
    "HTTP/1.1 200 OK\r\n\r\n220 ready",
    "HTTP/1.0 200 Connection established\r\nProxy-agent: tinyproxy\r\n\r\n220 ready",
    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n220 ready",
    "HTTP/1.1 204 No Content\r\n\r\n220 ready",
  ]) {
    for (const split of [0, 1, 17, answer.indexOf("220")]) {
      hop.state.play = (socket) => {
        socket.setNoDelay(true);
        socket.write(answer.slice(0, split), "latin1");
        setTimeout(() => socket.write(answer.slice(split), "latin1"), split === 0 ? 0 : 20);
      };
      const client = await RawClient.open(proxy.port);
      await client.connect("far.example:2525");
      await client.until(() => client.text === "220 ready", "the first bytes of the tunnel");
      client.socket.destroy();
    }
  }
});

test("relays a long answer that begins behind the 200, unchanged", async () => {
  const bytes = randomBytes(16 * 1024 * 1024);
  const hop = await startHopped((socket) => {
    socket.write(Buffer.concat([Buffer.from("HTTP/1.1 200 OK\r\n\r\n"), bytes.subarray(0, 100_000)]));
    socket.end(bytes.subarray(100_000));
  });
  const proxy = await start({ upstreamProxy: { url: hop.url } });
  const client = await RawClient.open(proxy.port);
  client.socket.write("CONNECT far.example:2525 HTTP/1.1\r\n\r\n");
  await client.untilEnd(30_000);
  const tunnel = client.bytes.subarray(client.bytes.indexOf("\r\n\r\n") + 4);
  assert.ok(tunnel.equals(bytes));
  client.socket.end();
  assert.equal((await proxy.waitRecord(() => true)).bytesDown, bytes.length);
});

test("an end right behind the 200 ends the tunnel", async () => {
  const hop = await startHopped((socket) => socket.end("HTTP/1.1 200 OK\r\n\r\nbye"));
  const proxy = await start({ upstreamProxy: { url: hop.url } });
  const client = await RawClient.open(proxy.port);
  await client.connect("far.example:2525");
  await client.untilEnd();
  assert.equal(client.text, "bye");
  client.socket.end();
  assert.equal((await proxy.waitRecord(() => true)).close, "upstream-end");
});

test("a client that leaves during the CONNECT frees the upstream proxy", async () => {
  const hop = await startHopped(() => {});
  const proxy = await start({ upstreamProxy: { url: hop.url } });
  const client = await RawClient.open(proxy.port);
  client.socket.write("CONNECT far.example:2525 HTTP/1.1\r\n\r\n");
  while (hop.state.heads.length === 0) await sleep(10);
  client.socket.resetAndDestroy();
  while (hop.state.open > 0) await sleep(10);
  assert.equal((await proxy.waitRecord(() => true)).close, "client-gone");
});

test("Local: tries the next vetted address after a refusal", async () => {
  const hop = await startHopped((socket, authority, head) => {
    if (authority.startsWith("127.0.0.1:")) relays()(socket, authority, head);
    else if (authority.startsWith("127.0.0.2:")) socket.write("HTTP/1.1 503 Unavailable\r\n\r\n");
    // The others get no answer.
  });
  const far = await startFar();
  const hosts = "127.0.0.2 far.example\n127.0.0.3 far.example\n127.0.0.1 far.example\n";
  const proxy = await start({ upstreamProxy: { url: hop.url } }, { hosts, args: ["--connect-seconds", "2"] });
  const client = await RawClient.open(proxy.port);
  await client.connect(`far.example:${far.port}`);
  client.socket.destroy();
  assert.equal((await proxy.waitRecord(() => true)).address, "127.0.0.1");
  assert.ok(hop.state.heads.length >= 1 && hop.state.heads.length <= 3);
  // Credentials would be wrong for each of them.
  hop.state.heads.length = 0;
  hop.state.play = sends("HTTP/1.1 407 no\r\n\r\n");
  assert.match(
    await exchange(proxy.port, "CONNECT far.example:2525 HTTP/1.1\r\n\r\n"),
    /^HTTP\/1\.1 502 egress-upstream/,
  );
  assert.equal(hop.state.heads.length, 1);
});

test("sends the credentials of the file, and shows them nowhere", async () => {
  const [far, hop] = [await startFar(), await startHopped()];
  const file = join(tempFolder(), "hop");
  writeFileSync(file, "corp:s3cret:x\n");
  const proxy = await start({ upstreamProxy: { url: hop.url } }, { args: ["--upstream-password-file", file] });
  const one = await RawClient.open(proxy.port);
  await one.connect(`far.example:${far.port}`);
  const sent = (text: string) => `Proxy-Authorization: Basic ${Buffer.from(text).toString("base64")}\r\n`;
  assert.ok(hop.state.heads[0]!.includes(sent("corp:s3cret:x")));

  // A file that is not valid keeps the last credentials, and tunnels.
  writeFileSync(file, "nothing");
  while (!proxy.stderr().includes("has no colon")) await sleep(20);
  one.socket.write("still here");
  await one.untilText("still here");

  // Other credentials end tunnels of the former ones.
  writeFileSync(file, "corp:n3w");
  await one.untilEnd();
  const record = await proxy.waitRecord(({ close }) => close === "revoked");
  assert.match(String(record.reason), /the upstream proxy has changed/);
  const two = await RawClient.open(proxy.port);
  await two.connect(`far.example:${far.port}`);
  assert.ok(hop.state.heads.at(-1)!.includes(sent("corp:n3w")));
  two.socket.destroy();

  hop.state.play = sends("HTTP/1.1 407 no\r\n\r\n");
  const refused = await exchange(proxy.port, get(`far.example:${far.port}`));
  assert.match(
    refused,
    /^HTTP\/1\.1 502 egress-upstream: the upstream proxy answered 407 to the credentials of this proxy\r\n/,
  );
  const status = (await proxy.admin("/status")).text + (await proxy.admin("/metrics")).text;
  const all = refused + status + proxy.stderr() + JSON.stringify(proxy.records());
  assert.doesNotMatch(all, /s3cret|n3w|Y29yc|corp:/);
});

test("a wrong credentials file is refused at the start", async () => {
  const file = join(tempFolder(), "hop");
  for (const [content, problem] of [
    ["", /--upstream-password-file .*hop: is empty; write USER:PASSWORD/],
    ["s3cret", /has no colon; write USER:PASSWORD/],
    ["a:s3cret\nb:s3cret\n", /has a control character or a second line/],
    [`a:s3cret${"x".repeat(5000)}`, /longer than 4096 bytes/],
    [null, /no such file/],
  ] as const) {
    const args = ["--upstream-password-file", content === null ? `${file}-absent` : file];
    if (content !== null) writeFileSync(file, content);
    await assert.rejects(start({ upstreamProxy: { url: "http://127.0.0.1:1" } }, { args }), (error: Error) => {
      assert.match(error.message, problem);
      assert.doesNotMatch(error.message, /s3cret/);
      return true;
    });
  }
});

test("a reload of the upstream proxy ends tunnels and pooled connections", async () => {
  const [far, hop, other] = [await startFar(), await startHopped(), await startHopped()];
  const proxy = await start({});
  const target = `far.example:${far.port}`;
  const reload = async (spec: object) => {
    const before = (await proxy.untilStatus(() => true)).policy!.hash;
    writeFileSync(proxy.policyFile, manifest(spec));
    proxy.signal("SIGHUP");
    await proxy.untilStatus((status) => status.policy!.hash !== before);
  };
  const tunnel = async () => {
    const client = await RawClient.open(proxy.port);
    await client.connect(target);
    return client;
  };
  /** A request that may reuse an idle upstream connection: the second one of its client connection. */
  const twice = async () => {
    const client = await RawClient.open(proxy.port);
    for (let i = 1; i <= 2; i++) {
      client.socket.write(`GET http://${target}/ HTTP/1.1\r\nHost: x\r\n\r\n`);
      await client.until(() => client.text.split("\r\n\r\nok").length === i + 1, "answer");
    }
    client.socket.destroy();
  };
  await twice();
  const direct = await tunnel();
  await reload({ upstreamProxy: { url: hop.url } });
  await direct.untilEnd();
  await twice();
  assert.equal(hop.state.heads.length, 1, "the idle direct connection is not used, and that of the upstream proxy is");
  const chained = await tunnel();
  await reload({ upstreamProxy: { url: hop.url }, deny: [{ hosts: ["bad.example"] }] });
  chained.socket.write("same hop");
  await chained.untilText("same hop");
  await reload({ upstreamProxy: { url: other.url } });
  await chained.untilEnd();
  await twice();
  assert.equal(other.state.heads.length, 1);
  const last = await tunnel();
  await reload({ upstreamProxy: { url: other.url, resolve: "Upstream" } });
  await last.untilEnd();
  await reload({});
  const again = await tunnel();
  again.socket.destroy();
  assert.equal(other.state.heads.length, 2);
});

test("verification goes through the upstream proxy", async () => {
  const echo = await listen((socket) => {
    socket.once("data", () => socket.end("HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n203.0.113.10"));
  });
  open.push(echo.close);
  const far = await startFar();
  for (const resolve of ["Local", "Upstream"] as const) {
    const hop = await startHopped((socket, authority, head) =>
      relays("HTTP/1.1 200 OK\r\n\r\n")(socket, authority.replace("far.example", "127.0.0.1"), head),
    );
    const spec = {
      upstreamProxy: { url: hop.url, resolve },
      staticIPs: [{ address: "203.0.113.10" }],
      verification: { echoURLs: [`http://far.example:${echo.port}/`], intervalSeconds: 1, timeoutSeconds: 1 },
    };
    const proxy = await start(spec);
    await proxy.untilStatus((status) => status.ready);
    const host = resolve === "Local" ? "127.0.0.1" : "far.example";
    assert.match(hop.state.heads[0]!, new RegExp(`^CONNECT ${host}:${echo.port} `));
    const client = await RawClient.open(proxy.port);
    await client.connect(`far.example:${far.port}`);
    client.socket.destroy();
    // Another upstream proxy has no proof.
    const silent = await startHopped(() => {});
    writeFileSync(proxy.policyFile, manifest({ ...spec, upstreamProxy: { url: silent.url, resolve } }));
    proxy.signal("SIGHUP");
    await proxy.untilStatus((status) => !status.ready && /did not answer/.test(status.verification[0]?.error ?? ""));
    assert.match(await exchange(proxy.port, get(`far.example:${far.port}`)), /^HTTP\/1\.1 503 egress-unavailable/);
    await proxy.stop();
  }
});
