import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { absolute } from "../../operator/injection/variables.ts";
import { makeCertificate } from "../harness/certificate.ts";
import { startDns } from "../harness/dns.ts";
import { finish } from "../harness/finish.ts";
import { OPEN_LOOPBACK, type ProxyHandle, startProxy, tempFolder } from "../harness/proxy.ts";
import { listen } from "../harness/raw.ts";
import { type Program, programs } from "./clients.ts";

/**
 * Real HTTP clients with the resolv.conf of a pod (`ndots:5`), and a search domain that has a wildcard record. Inside of
 * a network namespace with only loopback.
 */

const SERVICE = "webhooks-egress.convoy.svc.cluster.local";
const SEARCH = ["convoy.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.example"];
const BODY = "got POST";
/** A loaded machine takes 30 s for Java. */
const PROGRAM_MS = 90_000;

const folder = tempFolder();
const all = programs(folder);
let dns: Awaited<ReturnType<typeof startDns>>;
let receiver: Awaited<ReturnType<typeof listen>>;
let proxy: ProxyHandle;

before(async () => {
  const zone = (name: string, type: string) => {
    if (name === SERVICE) return { addresses: type === "A" ? ["127.0.0.1"] : [] };
    // There is no route to it. Ruby resolves targets, and sends directly to loopback addresses.
    if (name.endsWith(".corp.example")) return { addresses: type === "A" ? ["192.0.2.66"] : [] };
    return { rcode: "NXDOMAIN" } as const;
  };
  dns = await startDns(zone, { host: "127.0.0.53", port: 53 });
  receiver = await listen((socket) => {
    const answer = `HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: ${BODY.length}\r\n\r\n${BODY}`;
    socket.once("data", () => socket.end(answer));
  });
  const resolver = ["--resolver", "127.0.0.53:53"];
  proxy = await startProxy({ policy: {}, args: [...OPEN_LOOPBACK, ...resolver], hosts: "127.0.0.1 hooks.example\n" });
  writeFileSync(
    join(folder, "resolv.conf"),
    `search ${SEARCH.join(" ")}\nnameserver 127.0.0.53\noptions ndots:5 timeout:1\n`,
  );
  writeFileSync(join(folder, "plan"), `name http://hooks.example:${receiver.port}/hook 16\n`);
  // The clients read it, and send no https here.
  makeCertificate(folder, ["hooks.example"]);
});

after(async () => {
  await proxy?.stop();
  await receiver?.close();
  await dns?.close();
});

/** Status that each client of a program saw, and the names of the Service that it asked for. */
async function play(program: Program, host: string): Promise<{ seen: Map<string, string>; asked: Set<string> }> {
  const url = `http://outrider:x@${host}:${proxy.port}`;
  const settings = { host, port: proxy.port, user: "outrider", password: "x" };
  const { command, env } = program.command({
    plan: join(folder, "plan"),
    ca: join(folder, "ca.pem"),
    proxy: settings,
  });
  const mount = 'mount --bind "$0" /etc/resolv.conf && exec "$@"';
  const { PATH, HOME } = process.env;
  const asked = dns.queries.length;
  const child = spawn("unshare", ["--mount", "sh", "-c", mount, join(folder, "resolv.conf"), ...command], {
    env: { PATH, HOME, HTTP_PROXY: url, http_proxy: url, HTTPS_PROXY: url, https_proxy: url, ...env },
    stdio: ["ignore", "pipe", "pipe"],
    timeout: PROGRAM_MS,
  });
  const { stdout, stderr } = await finish(child);
  const lines = stdout.split("\n").map((line) => line.split("\t"));
  const seen = new Map<string, string>();
  for (const [client = "", id, kind, text = ""] of lines)
    if (id === "name" && kind === "status") seen.set(client, text);
  if (seen.size === 0) console.error(stdout, stderr);
  const names = dns.queries.slice(asked).map(({ name }) => name);
  return { seen, asked: new Set(names.filter((name) => name.startsWith("webhooks-egress."))) };
}

for (const program of all) {
  const clients = program.clients.filter(({ missing }) => missing === undefined).map(({ name }) => name);
  test(`${program.clients.map(({ name }) => name).join(", ")}`, { skip: clients.length === 0 }, async () => {
    const { seen, asked } = await play(program, absolute(SERVICE));
    assert.deepEqual(Object.fromEntries(seen), Object.fromEntries(clients.map((name) => [name, "200"])));
    assert.deepEqual([...asked], [SERVICE]);
  });
}

test("without the last dot a wildcard record of a search domain wins", async () => {
  const { seen, asked } = await play(all[0]!, SERVICE);
  assert.notEqual(seen.get("curl"), "200");
  assert.ok(asked.has(`${SERVICE}.corp.example`), [...asked].join());
});
