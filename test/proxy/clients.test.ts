import assert from "node:assert/strict";
import { test } from "node:test";
import { opensslMissing } from "../harness/certificate.ts";
import { basic, connectAs, passwordFolder } from "../harness/clients.ts";
import { type Issued, Pki, tlsArgs, tlsExchange, tlsFolder } from "../harness/pki.ts";
import { OPEN_LOOPBACK, type ProxyHandle, type ProxyRecord, startProxy } from "../harness/proxy.ts";
import { exchange, listen } from "../harness/raw.ts";

const skip = opensslMissing() ?? false;
/** Each entry allows one host of its own, so an answer shows which entry decided. */
const ENTRIES = ["billing", "ghost", "shop", "default"];
const HOSTS = `127.0.0.1 ${ENTRIES.map((name) => `${name}.example`).join(" ")} policy.example bad.example\n`;
const PASSWORDS = {
  PROXY_PASSWORD: "together",
  billing: "b-pass",
  shop: "s-pass",
  unlisted: "u-pass",
  toString: "t-pass",
};
const ANSWER = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";

const receiver = () => listen((socket) => socket.on("data", () => socket.end(ANSWER)));
const statusOf = (text: string) => text.split("\r\n")[0]!;

/** A document whose clients are proven as the start options of the proxy say. */
function document(names: readonly string[], more: object = {}): string {
  const clients = names.map((name) => ({ name, allow: [{ hosts: [`${name}.example`, "bad.example"] }] }));
  const lists = { allow: [{ hosts: ["policy.example"] }], deny: [{ name: "no-bad", hosts: ["bad.example"] }] };
  return JSON.stringify({ version: 2, policy: "test/test", defaultAction: "Deny", ...lists, clients, ...more });
}

/** The same request on both data paths. */
const WIRES: ((host: string, port: number, fields: string) => string)[] = [
  (host, port, fields) => `CONNECT ${host}:${port} HTTP/1.1\r\n${fields}\r\nGET / HTTP/1.1\r\n\r\n`,
  (host, port, fields) => `GET http://${host}:${port}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n${fields}\r\n`,
];

/** How a request of a test arrives. */
interface Sent {
  pair?: string;
  certificate?: Issued;
  tls?: boolean;
  fields?: string;
}

/** Sends requests, and counts them. */
function sender(proxy: ProxyHandle, ca: string) {
  const send = (bytes: string, { certificate, tls }: Sent): Promise<string> => {
    sent.count++;
    if (tls || certificate) return tlsExchange(bytes, proxy.tlsPort, ca, certificate);
    return exchange(proxy.port, bytes);
  };
  const sent = { count: 0, send };
  return sent;
}

/** Sends a request for the host of each entry on both data paths; returns the allowed entries, or another answer. */
async function allowedBy({ send }: ReturnType<typeof sender>, port: number, how: Sent): Promise<string> {
  const fields = `${how.pair === undefined ? "" : basic(how.pair)}${how.fields ?? ""}`;
  const paths: string[] = [];
  for (const wire of WIRES) {
    const seen: string[] = [];
    for (const name of [...ENTRIES, "policy", "bad"]) {
      const status = statusOf(await send(wire(`${name}.example`, port, fields), how));
      if (status.startsWith("HTTP/1.1 200 ")) seen.push(name);
      else if (!/ 403 egress-denied: \S+ is (not on the allow list|denied by rule no-bad)/.test(status)) return status;
    }
    paths.push(seen.join());
  }
  assert.equal(paths[0], paths[1], "both data paths decide alike");
  return paths[0]!;
}

test("each proof gives the view of its client, on both data paths", { skip, timeout: 180_000 }, async () => {
  const pki = new Pki();
  const tls = tlsFolder(pki, pki.issue("server", "/CN=proxy", { names: ["IP:127.0.0.1"] }));
  const [billing, unlisted] = [pki.issue("billing", "/CN=billing"), pki.issue("unlisted", "/CN=stranger")];
  const [ghost, nameless] = [pki.issue("ghost", "/CN=ghost"), pki.issue("nameless", "/O=none")];
  const proxy = await startProxy({
    policy: document(ENTRIES),
    args: [...OPEN_LOOPBACK, "--password-dir", passwordFolder(PASSWORDS), ...tlsArgs(tls, "cn")],
    hosts: HOSTS,
  });
  const far = await receiver();
  const sent = sender(proxy, pki.file);
  const wrong = /^HTTP\/1\.1 407 egress-auth: wrong proxy credentials/;
  const rows: [string, Sent, RegExp | string, Partial<ProxyRecord>?][] = [
    ["malformed", { fields: "Proxy-Authorization: Bearer x\r\n" }, wrong],
    ["a wrong password", { pair: "billing:nope" }, wrong],
    ["the password of another client", { pair: "shop:b-pass" }, wrong],
    ["the shared password with a name that has its own", { pair: "billing:together" }, wrong],
    ["a wrong password beside a certificate", { pair: "billing:nope", certificate: billing }, wrong],
    [
      "a certificate without a name",
      { certificate: nameless },
      /^HTTP\/1\.1 403 egress-denied: the client certificate has no CN/,
    ],
    [
      "two names",
      { pair: "shop:s-pass", certificate: billing },
      /^HTTP\/1\.1 403 egress-denied: .* have different names$/,
    ],
    ["an own password", { pair: "billing:b-pass" }, "billing", { client: "billing", authentication: "password" }],
    ["another own password", { pair: "shop:s-pass" }, "shop", { client: "shop", authentication: "password" }],
    [
      "an own password over TLS",
      { pair: "shop:s-pass", tls: true },
      "shop",
      { client: "shop", authentication: "password" },
    ],
    ["a certificate", { certificate: billing }, "billing", { client: "billing", authentication: "certificate" }],
    [
      "a certificate of a client without a password",
      { certificate: ghost },
      "ghost",
      { client: "ghost", authentication: "certificate" },
    ],
    [
      "both",
      { pair: "billing:b-pass", certificate: billing },
      "billing",
      { client: "billing", authentication: "both" },
    ],
    [
      "a certificate and the shared password",
      { pair: "shop2:together", certificate: billing },
      "billing",
      { authentication: "certificate" },
    ],
    [
      "an own password without an entry",
      { pair: "unlisted:u-pass" },
      "default",
      { client: "unlisted", authentication: "password" },
    ],
    [
      "the name of a method of objects",
      { pair: "toString:t-pass" },
      "default",
      { client: "toString", authentication: "password" },
    ],
    [
      "a certificate without an entry",
      { certificate: unlisted },
      "default",
      { client: "stranger", authentication: "certificate" },
    ],
    ["the shared password", { pair: "x:together" }, "default", { client: "x", authentication: "shared" }],
    ["a claimed name", { pair: "ghost:together" }, "default", { client: "ghost", authentication: "shared" }],
    ["another case", { pair: "Billing:together" }, "default", { client: "Billing", authentication: "shared" }],
    [
      "a role",
      { pair: "x:together", fields: "X-Smokescreen-Role: billing\r\n" },
      "default",
      { authentication: "shared" },
    ],
    ["a role beside a password", { pair: "shop:s-pass", fields: "X-Smokescreen-Role: billing\r\n" }, "shop"],
    ["nothing", {}, /^HTTP\/1\.1 407 egress-auth: no proxy credentials/],
    ["nothing over TLS", { tls: true }, /^HTTP\/1\.1 407 egress-auth: no proxy credentials/],
    ["only a role", { fields: "X-Smokescreen-Role: billing\r\n" }, /^HTTP\/1\.1 407 /],
  ];
  for (const [name, how, expected, record] of rows) {
    const before = sent.count;
    const allowed = await allowedBy(sent, far.port, how);
    if (typeof expected === "string") assert.equal(allowed, expected, name);
    else assert.match(allowed, expected, name);
    if (record === undefined) continue;
    await proxy.waitRecord(() => proxy.records().length === sent.count);
    for (const one of proxy.records().slice(before)) {
      assert.deepEqual({ ...one, ...record, entry: expected }, one, name);
    }
  }
  assert.equal(await proxy.stop(), 0);
  await far.close();
});

test("refuses a client without an entry with 403, whatever denyStatus is", async () => {
  const proxy = await startProxy({
    policy: document(["billing"], { proxy: { denyStatus: 502 } }),
    args: [...OPEN_LOOPBACK, "--password-dir", passwordFolder(PASSWORDS)],
    hosts: HOSTS,
  });
  const far = await receiver();
  for (const pair of ["unlisted:u-pass", "x:together", "billing2:together"]) {
    for (const wire of WIRES) {
      const answer = await exchange(proxy.port, wire("billing.example", far.port, basic(pair)));
      assert.equal(statusOf(answer), "HTTP/1.1 403 egress-denied: this client has no entry in the policy", pair);
      assert.match(answer, /\r\nProxy-Status: outrider; error=http_request_denied\r\n/);
      assert.doesNotMatch(answer, /Proxy-Authenticate|rbac_access_denied/);
    }
  }
  const denied = await exchange(proxy.port, WIRES[0]!("policy.example", far.port, basic("billing:b-pass")));
  assert.match(denied, /^HTTP\/1\.1 502 egress-denied: policy\.example is not on the allow list/);
  await proxy.waitRecord((r) => r.code === "not-allowed");
  const refused = proxy.records().filter((r) => r.code === "client");
  assert.equal(refused.length, 6);
  for (const record of refused) {
    assert.equal(record.verdict, "deny");
    assert.equal(record.entry, undefined);
    assert.match(String(record.authentication), /^(password|shared)$/);
    assert.equal(record.reason, "this client has no entry in the policy");
    assert.doesNotMatch(String(record.reason), /billing/);
  }
  assert.match((await proxy.admin("/metrics")).text, /code="client"/);
  assert.equal(await proxy.stop(), 0);
  await far.close();
});

test("the records of a policy without clients have neither entry nor authentication", async () => {
  const proxy = await startProxy({
    policy: {},
    args: [...OPEN_LOOPBACK, "--password-dir", passwordFolder(PASSWORDS)],
    hosts: HOSTS,
  });
  const far = await receiver();
  for (const wire of WIRES) await exchange(proxy.port, wire("a.example", far.port, basic("billing:b-pass")));
  await proxy.waitRecord(() => proxy.records().length === 2);
  for (const record of proxy.records())
    assert.deepEqual([record.client, record.entry, record.authentication], ["billing", undefined, undefined]);
  assert.equal(await proxy.stop(), 0);
  await far.close();
});

test("limits and rules are those of the client's entry", async () => {
  const clients = [
    { name: "billing", limits: { maxTunnels: 2 } },
    { name: "shop", allow: [{ hosts: ["shop.example"] }], mode: "Report" },
    { name: "default", limits: { maxTunnels: 0 } },
  ];
  const proxy = await startProxy({
    policy: document([], { clients, proxy: { limits: { maxTunnelsPerClient: 1 } } }),
    args: [...OPEN_LOOPBACK, "--password-dir", passwordFolder(PASSWORDS)],
    hosts: HOSTS,
  });
  const far = await listen((socket) => socket.resume().on("end", () => socket.end()));
  const tunnels = async (pair: string) => {
    const answers = Array.from({ length: 3 }, () => connectAs(proxy, pair, `policy.example:${far.port}`));
    const found = await Promise.all(answers);
    for (const { socket } of found) socket.destroy();
    return found.filter(({ text }) => text.startsWith("HTTP/1.1 200 ")).length;
  };
  assert.equal(await tunnels("billing:b-pass"), 2);
  assert.equal(await tunnels("shop:s-pass"), 1);
  assert.equal(await tunnels("unlisted:u-pass"), 3);
  const record = await proxy.waitRecord((r) => r.entry === "shop" && r.code === undefined);
  assert.deepEqual(record.wouldDeny, { code: "not-allowed", rule: "default" });
  assert.equal(await proxy.stop(), 0);
  await far.close();
});

test("allowMissing admits requests without any proof as default", async () => {
  const authentication = { mode: "Basic", allowMissing: true };
  const proxy = await startProxy({
    policy: document(["billing", "default"], { authentication }),
    args: [...OPEN_LOOPBACK, "--password-dir", passwordFolder(PASSWORDS)],
    hosts: HOSTS,
  });
  const far = await receiver();
  const sent = sender(proxy, "");
  assert.equal(await allowedBy(sent, far.port, {}), "default");
  await proxy.waitRecord(() => proxy.records().length === sent.count);
  for (const { client, entry, authentication } of proxy.records()) {
    assert.deepEqual([client, entry, authentication], [undefined, "default", "none"]);
  }
  assert.equal(await allowedBy(sent, far.port, { pair: "billing:b-pass" }), "billing");
  assert.equal(await allowedBy(sent, far.port, { pair: "x:together" }), "default");
  for (const pair of ["billing:nope", "x:nope", ":"]) assert.match(await allowedBy(sent, far.port, { pair }), / 407 /);
  assert.equal(await proxy.stop(), 0);
  await far.close();
});

test("without proofs every client is default", async () => {
  const proxy = await startProxy({ policy: document(["billing", "default"]), args: OPEN_LOOPBACK, hosts: HOSTS });
  const far = await receiver();
  const sent = sender(proxy, "");
  assert.equal(await allowedBy(sent, far.port, {}), "default");
  assert.equal(await allowedBy(sent, far.port, { pair: "billing:b-pass" }), "default");
  assert.equal(await allowedBy(sent, far.port, { fields: "X-Smokescreen-Role: billing\r\n" }), "default");
  await proxy.waitRecord(() => proxy.records().length === sent.count);
  for (const { client, entry, authentication } of proxy.records()) {
    assert.deepEqual([client, entry, authentication], [undefined, "default", "none"]);
  }
  assert.equal(await proxy.stop(), 0);
  await far.close();
});
