import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { OPEN_LOOPBACK, startProxy } from "../harness/proxy.ts";
import { exchange, listen, RawClient } from "../harness/raw.ts";

/** Families of a text exposition: type, help, and sample lines. */
function parse(text: string) {
  const families = new Map<string, { type: string; help: string; samples: string[] }>();
  let name = "";
  for (const line of text.split("\n")) {
    const head = /^# (HELP|TYPE) (\S+) (.+)$/.exec(line);
    if (head !== null) {
      name = head[2]!;
      const family = families.get(name) ?? { type: "", help: "", samples: [] };
      families.set(name, { ...family, [head[1]!.toLowerCase()]: head[3]! });
    } else if (line !== "") families.get(name)!.samples.push(line);
  }
  return families;
}

const value = (families: ReturnType<typeof parse>, sample: string): number => {
  const lines = [...families.values()].flatMap((family) => family.samples);
  const line = lines.find((text) => text.startsWith(`${sample} `));
  return line === undefined ? Number.NaN : Number(line.split(" ").at(-1));
};

test("metrics are exact under load and match the docs", async () => {
  const hosts = Array.from({ length: 50 }, (_, i) => `tenant-${i}.example`);
  const proxy = await startProxy({
    policy: { deny: [{ name: "denied", hosts: ["denied.example"] }] },
    args: OPEN_LOOPBACK,
    hosts: `127.0.0.1 ${hosts.join(" ")}\n`,
  });
  const far = await listen((socket) =>
    socket.on("data", () => socket.end("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")),
  );
  const wires = [
    ...hosts.map((host) => `CONNECT ${host}:${far.port} HTTP/1.1\r\n\r\nhello`),
    ...hosts.map((host) => `GET http://${host}:${far.port}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`),
    ...hosts.map(() => "CONNECT denied.example:443 HTTP/1.1\r\n\r\n"),
    "CONNECT 10.0.0.5:443 HTTP/1.1\r\n\r\n",
    "nonsense\r\n\r\n",
  ];
  const scrapes: string[] = [];
  for (let i = 0; i < wires.length; i += 10) {
    const batch = wires.slice(i, i + 10).map((wire) => exchange(proxy.port, wire));
    scrapes.push((await proxy.admin("/metrics")).text);
    await Promise.all(batch);
  }
  await proxy.waitRecord(() => proxy.records().length === wires.length);
  const { status, text } = await proxy.admin("/metrics");
  assert.equal(status, 200);
  const families = parse(text);
  const documented = readFileSync(new URL("../../docs/metrics.md", import.meta.url), "utf8");
  for (const [name, { type, help }] of families) {
    assert.match(type, /^(counter|gauge|histogram|summary)$/, name);
    assert.ok(help.length > 5, name);
    if (name.startsWith("outrider_"))
      assert.ok(documented.includes(`| \`${name}\` | ${type} |`), `docs/metrics.md: ${name}`);
  }
  const rows = [...documented.matchAll(/^\| `(outrider_proxy_\w+)`/gm)].map(([, name]) => name!);
  const ours = [...families.keys()].filter((name) => name.startsWith("outrider_proxy_"));
  assert.deepEqual(rows.toSorted(), ours.toSorted());
  assert.ok(rows.length > 10, `${rows.length} metrics`);
  const requests = (kind: string, verdict: string, code: string) =>
    value(families, `outrider_proxy_requests_total{kind="${kind}",verdict="${verdict}",code="${code}"}`);
  assert.equal(requests("connect", "allow", "ok"), 50);
  assert.equal(requests("http", "allow", "ok"), 50);
  assert.equal(requests("connect", "deny", "denied-rule"), 50);
  assert.equal(requests("connect", "deny", "address"), 1);
  assert.equal(requests("http", "deny", "bad-request"), 1);
  assert.equal(value(families, 'outrider_proxy_bytes_total{direction="up"}'), 50 * 5);
  assert.equal(value(families, "outrider_proxy_active_tunnels"), 0);
  assert.equal(value(families, "outrider_proxy_connect_seconds_count"), 100);
  const { hash } = (await proxy.untilStatus(() => true)).policy!;
  assert.equal(value(families, `outrider_proxy_policy_info{hash="${hash}"}`), 1);
  for (const scrape of [...scrapes, text]) assert.doesNotMatch(scrape, /tenant-|denied\.example|10\.0\.0\.5/);
  assert.equal(await proxy.stop(), 0);
  await far.close();
});

test("a scrape counts the open files and lists no handles", async () => {
  const far = await listen((socket) => socket.resume());
  const proxy = await startProxy({ policy: {}, args: OPEN_LOOPBACK });
  const clients = await Promise.all(Array.from({ length: 20 }, () => RawClient.open(proxy.port)));
  for (const client of clients) {
    client.socket.write(`CONNECT 127.0.0.1:${far.port} HTTP/1.1\r\n\r\n`);
    await client.untilText("200");
  }
  const open = proxy.handles();
  const { text } = await proxy.admin("/metrics");
  const files = value(parse(text), "process_open_fds");
  assert.ok(Math.abs(files - open) <= 5, `${files} of ${open}`);
  assert.doesNotMatch(text, /nodejs_active_(handles|resources)/);
  for (const { socket } of clients) socket.destroy();
  await proxy.stop();
  await far.close();
});
