import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { createServer as createTlsServer } from "node:https";
import type { Server } from "node:net";
import { delimiter, dirname, join } from "node:path";
import { after, before, test } from "node:test";
import { makeCertificate } from "../harness/certificate.ts";
import { startDns } from "../harness/dns.ts";
import { finish } from "../harness/finish.ts";
import { OUTRIDER, tempFolder } from "../harness/proxy.ts";

/**
 * Follows docs/migrate.md from its first line to its last one, in a network namespace in which its ports are free: writes
 * its files, runs its commands word for word, and sends the requests of its tables.
 */

const page = readFileSync(new URL("../../docs/migrate.md", import.meta.url), "utf8");
const RECEIVER = "127.0.0.2";
/** Names of the tables that the receiver serves. */
const NAMES = [
  ...["hooks.example", "play.example", "dashboard.example", "db.internal", "default.example"],
  ...["x.bad.example", "mirror.bad.example", "eu.customer.example"],
];
/** Rows that Smokescreen delivers and outrider does not; the list of the page explains both. */
const NOT_DELIVERED = ["mirror.bad.example", "billing:s3cret@localhost:4750 http://play.example:25/"];

const folder = tempFolder();
const { key, cert } = makeCertificate(folder, NAMES);
const hosts = [...NAMES.map((name) => `${RECEIVER} ${name}`), "10.0.0.5 private.example"];
writeFileSync(join(folder, "hosts"), `${hosts.join("\n")}\n`);
const { PROXY_PASSWORD: _, ...inherited } = process.env;
const env = {
  ...inherited,
  PATH: `${dirname(OUTRIDER)}${delimiter}${process.env.PATH}`,
  CURL_CA_BUNDLE: cert,
  // The addresses of this namespace, by documented options.
  OUTRIDER_HOSTS: join(folder, "hosts"),
  OUTRIDER_ALLOW_CIDR: "127.0.0.0/8",
  OUTRIDER_RESOLVER: "127.0.0.1:53",
  OUTRIDER_DRAIN_DELAY_SECONDS: "0",
};

/** Requests that the receiver got, by their `Host`. */
let delivered: string[] = [];
const servers: Server[] = [];
let dns: Awaited<ReturnType<typeof startDns>>;
let proxy: ChildProcess | undefined;

before(async () => {
  const answer: Parameters<typeof createServer>[1] = (request, response) => {
    delivered.push(request.headers.host!);
    response.end("ok");
  };
  const tls = { key: readFileSync(key), cert: readFileSync(cert) };
  for (const [port, server] of [
    [80, createServer(answer)],
    [25, createServer(answer)],
    [443, createTlsServer(tls, answer)],
  ] as const) {
    servers.push(server.listen(port, RECEIVER));
    await once(server, "listening");
  }
  dns = await startDns(() => ({ rcode: "NXDOMAIN" }), { host: "127.0.0.1", port: 53 });
});

after(async () => {
  await stopProxy();
  for (const server of servers) server.close();
  await dns.close();
});

/** A command in the folder of the page's files, with the leader of its process group. */
const shell = (command: string) =>
  spawn("sh", ["-c", command], { cwd: folder, env, detached: true, stdio: ["ignore", "pipe", "pipe"] });

async function stopProxy(): Promise<void> {
  if (proxy === undefined) return;
  const ended = once(proxy, "close");
  process.kill(-proxy.pid!, "SIGTERM");
  await ended;
  proxy = undefined;
}

async function startProxy(command: string): Promise<void> {
  await stopProxy();
  proxy = shell(command);
  proxy.stdout!.resume();
  let log = "";
  for await (const chunk of proxy.stderr!.iterator({ destroyOnReturn: false })) {
    log += chunk;
    if (log.includes('"msg":"listening"')) break;
  }
  assert.match(log, /"msg":"listening"/, command);
  proxy.stderr!.resume();
}

/** Runs a command to its end and compares its errors and output with the page; `…` is any text. */
async function run(command: string, expected: string): Promise<void> {
  const { stderr, stdout } = await finish(shell(command));
  const pattern = expected
    .split("…")
    .map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"))
    .join(".*");
  assert.match(stderr + stdout, new RegExp(`^${pattern}$`), `${command}\n${stderr}${stdout}`);
}

/** Sends the request of a row: `delivered`, or the status of the refusal. */
async function send(command: string): Promise<string> {
  delivered = [];
  const shown = ` -sS -m 20 -o answer -w '%{http_connect} %{http_code}'`;
  const { stdout } = await finish(shell(`${command}${shown}`));
  const [connect, status] = stdout.split(" ");
  if (status === "200") {
    assert.equal(delivered.length, 1, command);
    assert.equal(readFileSync(join(folder, "answer"), "utf8"), "ok");
    return "delivered";
  }
  assert.deepEqual(delivered, [], command);
  return status === "000" ? connect! : status!;
}

const files = [...page.matchAll(/^```yaml (\S+)\n(.*?)^```$/gms)];
for (const [, name, text] of files) writeFileSync(join(folder, name!), text!);

test("the page has files", () => {
  assert.deepEqual(
    files.map(([, name]) => name),
    ["mole.yaml", "config.yaml", "smokescreen.yaml"],
  );
});

/** Commands with their output, and rows of tables of requests, in the order of the page. */
const STEPS =
  /^\$ (?<command>.*)\n(?<output>(?:(?!\$ |```).*\n)*)|^\| `(?<request>curl [^`]*)`[^|]* \| (?<theirs>[^|]*) \| (?<ours>[^|]*) \|$/gm;
let rows = 0;
let proxies = 0;

for (const { groups } of page.matchAll(STEPS)) {
  const { command, output = "", request, theirs, ours } = groups!;
  if (request !== undefined) {
    rows++;
    test(`row ${rows}: ${request.replace("curl -x ", "")}`, async () => {
      assert.ok(proxy !== undefined);
      assert.equal(await send(request), ours);
      const differs = theirs === "delivered" && ours !== "delivered";
      const known = NOT_DELIVERED.some((text) => request.includes(text));
      assert.equal(differs, known, `${request}: ${theirs}, ${ours}`);
    });
  } else if (/ ?outrider proxy /.test(command!) && output === "") {
    proxies++;
    test(`starts proxy ${proxies}`, () => startProxy(command!));
  } else test(`runs ${command!.slice(0, 70)}`, () => run(command!, output));
}

test("the page has proxies and rows", () => {
  assert.ok(proxies >= 4 && rows >= 20, `${proxies} proxies, ${rows} rows`);
});
