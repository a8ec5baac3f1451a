import assert from "node:assert/strict";
import { renameSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { basic, passwordFolder } from "../harness/clients.ts";
import { manifest, OPEN_LOOPBACK, type ProxyRecord, startProxy } from "../harness/proxy.ts";
import { listen, RawClient } from "../harness/raw.ts";

const HOSTS = "127.0.0.1 all.example billing.example shop.example default.example\n";
const PASSWORDS = { PROXY_PASSWORD: "together", billing: "b-pass", shop: "s-pass", unlisted: "u-pass" };
/** Users, each with the entry that its requests get. */
const USERS = [
  ["billing:b-pass", "billing"],
  ["shop:s-pass", "shop"],
  ["unlisted:u-pass", "default"],
  ["x:together", "default"],
  // The name of an entry, without its password.
  ["y:together", "default"],
] as const;
const TARGETS = ["all", "billing", "shop", "default"] as const;
const POLICY = JSON.stringify({
  version: 2,
  policy: "test/test",
  defaultAction: "Deny",
  clients: ["billing", "shop", "default"].map((name) => ({
    name,
    allow: [{ hosts: ["all.example", `${name}.example`] }],
  })),
});
/** Client connections at once, and requests of each. */
const LANES = 16;
const ROUNDS = 40;

/** A receiver that answers each request with its path and the port of the connection that it came on. */
const receiver = () =>
  listen((socket) => {
    let held = "";
    socket.on("data", (chunk) => {
      held += chunk.toString("latin1");
      for (let end = held.indexOf("\r\n\r\n"); end !== -1; end = held.indexOf("\r\n\r\n")) {
        const [, path = ""] = held.split(" ");
        held = held.slice(end + 4);
        const asks = path.startsWith("/401") ? "WWW-Authenticate: NTLM TlRM\r\n" : "";
        const body = `${path} ${socket.remotePort};`;
        socket.write(`HTTP/1.1 200 OK\r\n${asks}Content-Length: ${body.length}\r\n\r\n${body}`);
      }
    });
    socket.on("end", () => socket.end());
  });

const get = (host: string, port: number, path: string, pair: string) =>
  `GET http://${host}.example:${port}${path} HTTP/1.1\r\nHost: x\r\n${basic(pair)}\r\n`;

/** A client connection that sends one request after the other. */
class Lane {
  readonly #client: RawClient;
  readonly #port: number;

  private constructor(client: RawClient, port: number) {
    this.#client = client;
    this.#port = port;
  }

  static async open(proxyPort: number, port: number): Promise<Lane> {
    return new Lane(await RawClient.open(proxyPort), port);
  }

  /** The upstream connection that a request of a user used. */
  async via(pair: string, path: string): Promise<string> {
    const from = this.#client.text.length;
    this.#client.socket.write(get("all", this.#port, path, pair));
    const answer = new RegExp(`\\r\\n\\r\\n${path} (\\d+);$`);
    await this.#client.until(() => answer.test(this.#client.text.slice(from)), `answer to ${path}`);
    return answer.exec(this.#client.text)![1]!;
  }

  close(): void {
    this.#client.socket.destroy();
  }
}

const started = (policy: string) =>
  startProxy({ policy, args: [...OPEN_LOOPBACK, "--password-dir", passwordFolder(PASSWORDS)], hosts: HOSTS });

/** Whether a user may reach a target. */
const mayReach = (entry: string, target: string): boolean => target === "all" || target === entry;

test("clients that share connections never get each other's decisions", { timeout: 120_000 }, async () => {
  const proxy = await started(POLICY);
  const far = await receiver();
  const expected = new Map<string, { client: string; entry: string; allowed: boolean }>();
  /** Sends pipelined requests of changing users on one connection, up to the first one that is refused. */
  const pipelined = async (lane: number, round: number) => {
    const wires: string[] = [];
    const answers: RegExp[] = [];
    for (let i = 0; ; i++) {
      const [pair, entry] = USERS[(lane + 3 * round + i * (1 + (lane % 4))) % USERS.length]!;
      const target = i < 8 ? TARGETS[(round + i * i) % TARGETS.length]! : TARGETS.find((one) => !mayReach(entry, one))!;
      const path = `/${lane}-${round}-${i}`;
      const trace = `X-Smokescreen-Trace-ID: ${path}\r\nX-Smokescreen-Role: billing\r\n\r\n`;
      wires.push(get(target, far.port, path, pair).replace(/\r\n$/, trace));
      const allowed = mayReach(entry, target);
      expected.set(path, { client: pair.split(":")[0]!, entry, allowed });
      answers.push(allowed ? new RegExp(`\\r\\n\\r\\n${path} \\d+;`) : /HTTP\/1\.1 403 egress-denied: \S+ is not on/);
      if (!allowed) break;
    }
    const client = await RawClient.open(proxy.port);
    client.socket.write(wires.join(""));
    await client.untilEnd(60_000);
    client.socket.destroy();
    assert.equal(client.text.match(/HTTP\/1\.1 \d+ /g)?.length, answers.length, client.text);
    for (const answer of answers) assert.match(client.text, answer);
  };
  const tunnel = async (lane: number, round: number) => {
    const [pair, entry] = USERS[(lane + round) % USERS.length]!;
    const target = TARGETS[(lane + 2 * round + (round >> 2)) % TARGETS.length]!;
    const path = `/tunnel-${lane}-${round}`;
    const client = await RawClient.open(proxy.port);
    const trace = `X-Smokescreen-Trace-ID: ${path}\r\n`;
    client.socket.write(`CONNECT ${target}.example:${far.port} HTTP/1.1\r\n${trace}${basic(pair)}\r\n`);
    await client.untilText("\r\n\r\n");
    const allowed = mayReach(entry, target);
    expected.set(path, { client: pair.split(":")[0]!, entry, allowed });
    assert.match(client.text, allowed ? /^HTTP\/1\.1 200 / : /^HTTP\/1\.1 403 egress-denied: \S+ is not on/);
    client.socket.destroy();
  };
  const lanes = Array.from({ length: LANES }, async (_, lane) => {
    for (let round = 0; round < ROUNDS; round++) await (lane % 4 === 3 ? tunnel : pipelined)(lane, round);
  });
  await Promise.all(lanes);
  await proxy.waitRecord(() => proxy.records().length === expected.size, 30_000);
  for (const record of proxy.records()) {
    const { client, entry, allowed } = expected.get(String(record.traceId))!;
    const { verdict, authentication } = record;
    const shared = client === "x" || client === "y";
    const [is, should] = [
      [record.client, record.entry, verdict, authentication],
      [client, entry, allowed ? "allow" : "deny", shared ? "shared" : "password"],
    ];
    assert.deepEqual(is, should, JSON.stringify(record));
  }
  const kinds = new Set(proxy.records().map((r: ProxyRecord) => `${r.kind} ${r.client} ${r.verdict}`));
  assert.equal(kinds.size, 2 * 2 * USERS.length, "each user was allowed and denied on both data paths");
  assert.equal(await proxy.stop(), 0);
  await far.close();
});

const RELOADS = 20;
/** Requests between two reloads. */
const STEADY_REQUESTS = 60;

test(`one view decides each request during ${RELOADS} reloads`, { timeout: 300_000 }, async () => {
  // Both policies allow a host to one client and the other host to the other one.
  const entries = (one: string, other: string) => [
    { name: "billing", allow: [{ hosts: [`${one}.example`] }] },
    { name: "shop", allow: [{ hosts: [`${other}.example`] }] },
  ];
  const policies = [entries("billing", "shop"), entries("shop", "billing")].map((clients) =>
    JSON.stringify({ version: 2, policy: "test/test", defaultAction: "Deny", clients }),
  );
  const proxy = await started(policies[0]!);
  const far = await receiver();
  const hashes = [(await proxy.untilStatus(() => true)).policy!.hash];
  let [going, sent, cut] = [true, 0, 0];
  const lane = async (first: number) => {
    for (let i = first; going; i++) {
      const client = await RawClient.open(proxy.port);
      const [pair] = USERS[i % 2]!;
      const target = TARGETS[1 + ((i >> 1) % 2)]!;
      client.socket.write(get(target, far.port, "/", pair).replace(/\r\n$/, "Connection: close\r\n\r\n"));
      await client.untilEnd(60_000);
      client.socket.destroy();
      sent++;
      if (client.text === "") cut++;
      else assert.match(client.text, /^HTTP\/1\.1 (200 OK|403 egress-denied: \S+ is not on the allow list)/);
    }
  };
  const lanes = Promise.all(Array.from({ length: LANES }, (_, i) => lane(i)));
  // Its failure is reported where it is awaited.
  lanes.catch(() => {});
  for (let i = 1; i <= RELOADS; i++) {
    writeFileSync(`${proxy.policyFile}.new`, policies[i % 2]!);
    renameSync(`${proxy.policyFile}.new`, proxy.policyFile);
    proxy.signal("SIGHUP");
    const before = hashes.at(-1);
    hashes.push((await proxy.untilStatus((status) => status.policy!.hash !== before, 60_000)).policy!.hash);
    for (const wanted = sent + STEADY_REQUESTS; sent < wanted; )
      await Promise.race([lanes, new Promise((resolve) => setTimeout(resolve, 10))]);
  }
  going = false;
  await lanes;
  await proxy.waitRecord(() => proxy.records().length === sent, 30_000);
  const decided = new Set<string>();
  for (const record of proxy.records()) {
    assert.equal(record.entry, record.client);
    if (record.close === "revoked") continue;
    const own = record.target.startsWith(`${record.client}.`);
    const verdict = own === (record.hash === hashes[0]) ? "allow" : "deny";
    assert.deepEqual(
      [record.verdict, hashes.slice(0, 2).includes(String(record.hash))],
      [verdict, true],
      JSON.stringify(record),
    );
    decided.add(`${record.hash} ${record.client} ${record.verdict}`);
  }
  assert.equal(decided.size, 8, "each policy has allowed and denied each client");
  assert.equal(proxy.records().filter((r) => r.close === "revoked").length, cut);
  assert.equal(await proxy.stop(), 0);
  await far.close();
});

test("idle upstream connections serve the clients of one entry", async () => {
  const proxy = await started(POLICY);
  const far = await receiver();
  const lanes = await Promise.all([1, 2].map(() => Lane.open(proxy.port, far.port)));
  const [one, two] = lanes as [Lane, Lane];
  const billing = await one.via("billing:b-pass", "/1");
  assert.equal(await one.via("billing:b-pass", "/2"), billing);
  const shop = await one.via("shop:s-pass", "/3");
  assert.notEqual(shop, billing);
  const others = await one.via("unlisted:u-pass", "/4");
  assert.ok(others !== billing && others !== shop);
  assert.equal(await one.via("x:together", "/5"), others, "two clients of one entry share it");
  await two.via("billing:b-pass", "/6");
  assert.equal(await two.via("shop:s-pass", "/7"), shop);
  assert.equal(await two.via("y:together", "/8"), others);
  for (const lane of lanes) lane.close();
  assert.equal(await proxy.stop(), 0);
  await far.close();
});

test("a connection that NTLM binds serves one user of a client connection", async () => {
  const far = await receiver();
  const pairs: [one: string, other: string][] = [
    ["x:together", "y:together"],
    ["billing:b-pass", "x:together"],
    ["unlisted:u-pass", "x:together"],
  ];
  for (const policy of [POLICY, manifest({})]) {
    const proxy = await started(policy);
    for (const [i, [one, other]] of pairs.entries()) {
      const lane = await Lane.open(proxy.port, far.port);
      await lane.via(one, `/401-${i}`);
      const bound = await lane.via(one, `/401-${i}-again`);
      assert.equal(await lane.via(one, `/own-${i}`), bound, "its own user keeps it");
      const foreign = await lane.via(other, `/other-${i}`);
      assert.notEqual(foreign, bound, `${one} and ${other}`);
      assert.notEqual(await lane.via(other, `/401-other-${i}`), bound);
      assert.notEqual(await lane.via(one, `/back-${i}`), bound, "also not after another user");
      lane.close();
    }
    assert.equal(await proxy.stop(), 0);
  }
  await far.close();
});
