import assert from "node:assert/strict";
import { type ChildProcess, execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";
import { ANNOTATION, LABEL, SERVICE_TLS_PORT } from "../../operator/api/names.ts";
import { inject, type PodLike } from "../../operator/injection/inject.ts";
import { makeCertificate, opensslMissing } from "../harness/certificate.ts";
import { makeNetns, type Netns, netnsMissing } from "../harness/netns.ts";
import { Pki, tlsArgs, tlsFolder } from "../harness/pki.ts";
import { type ProxyHandle, startProxy, tempFolder } from "../harness/proxy.ts";
import { applied, environment, targetOf } from "../injection/policies.ts";
import { BODY, SENDERS } from "../proxy/senders/senders.ts";

/** Real senders with the very environment that a patch gives, a real proxy, a real receiver, and no way around it. */

const RECEIVER = "11.0.0.10";
const SECRETS = { "proxy-passwords": { PROXY_PASSWORD: "shared-1", billing: "its_own.2" } };
const folder = tempFolder();
const passwords = join(folder, "passwords");
const ca = join(folder, "ca.pem");
const missing = netnsMissing() ?? opensslMissing();
const REASON = "egress-denied: x.competitor.example is denied by rule competitors; policy test/test";
let net: Netns;
let proxies: { None: ProxyHandle; Basic: ProxyHandle };
let receiver: ChildProcess;

before(async () => {
  if (missing !== null) return;
  net = makeNetns([RECEIVER], []);
  makeCertificate(folder, ["hooks.example"]);
  const program = new URL("../proxy/senders/receiver.mjs", import.meta.url).pathname;
  const command = ["netns", "exec", net.internet, process.execPath, program, RECEIVER, "", join(folder, "key.pem"), ca];
  receiver = spawn("ip", command, { stdio: ["ignore", "pipe", "inherit"] });
  const lines = createInterface({ input: receiver.stdout! });
  assert.deepEqual(await once(lines, "line"), ["ready"]);
  lines.on("line", () => {});
  mkdirSync(passwords);
  for (const [key, password] of Object.entries(SECRETS["proxy-passwords"]))
    writeFileSync(join(passwords, key), password);
  const options = {
    policy: { deny: [{ name: "competitors", hosts: ["*.competitor.example"] }] },
    netns: net.inside,
    hosts: `${RECEIVER} hooks.example x.competitor.example`,
  };
  const resolver = ["--resolver", "127.0.0.1:53"];
  proxies = {
    None: await startProxy({ ...options, args: resolver }),
    Basic: await startProxy({ ...options, args: [...resolver, "--password-dir", passwords] }),
  };
});

after(async () => {
  if (missing !== null) return;
  for (const proxy of Object.values(proxies ?? {})) assert.equal(await proxy.stop(), 0);
  if (receiver !== undefined) {
    receiver.kill("SIGKILL");
    await once(receiver, "close");
  }
  net?.close();
});

/** The injected environment of a pod whose container only has `HTTP_PROXY: ""`. */
function injected(spec: { authentication: { mode: "None" | "Basic" } }, client?: string): Record<string, string> {
  const { port } = proxies[spec.authentication.mode];
  const annotations = { [LABEL.policy]: "webhooks", ...(client === undefined ? {} : { [ANNOTATION.client]: client }) };
  const env = [{ name: "HTTP_PROXY", value: "" }];
  const pod: PodLike = { metadata: { annotations }, spec: { containers: [{ name: "agent", env }] } };
  const { patch, warnings } = inject(pod, { ...targetOf(spec), host: "127.0.0.1", port });
  assert.deepEqual(warnings, []);
  return environment(applied(pod, patch).spec!.containers![0]!.env!, SECRETS);
}

/** Runs a sender beside the proxy; what it printed, and the records that its requests left. */
async function send(command: string[], env: Record<string, string>, proxy: ProxyHandle) {
  const { PATH, HOME } = process.env;
  const earlier = proxy.records().length;
  const child = spawn("ip", ["netns", "exec", net.inside, ...command], {
    env: { PATH, HOME, ...env },
    stdio: ["ignore", "pipe", "pipe"],
    timeout: 30_000,
  });
  let text = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.on("data", (chunk: Buffer) => {
      text += chunk;
    });
  }
  const [status] = (await once(child, "close")) as [number | null];
  await proxy
    .waitRecord(() => proxy.records().length > earlier)
    .catch(() => assert.fail(`no record; it said: ${text}`));
  return { status, text, records: proxy.records().slice(earlier) };
}

for (const sender of SENDERS) {
  const [tool, ...args] = sender.tool;
  const skip = missing ?? (spawnSync(tool!, args).error === undefined ? false : `needs ${tool}`);
  test(`${sender.name}: delivers with injected variables and shows a denial`, { skip }, async () => {
    sender.prepare?.(folder);
    const authentication = { mode: "Basic" as const, secretRef: { name: "proxy-passwords" } };
    for (const client of [undefined, "billing"]) {
      const env = injected({ authentication }, client);
      for (const scheme of ["https", "http"]) {
        // A sender's own command adds only its CA. The switch for proxies comes from the patch alone.
        const run = sender.command({ urls: [`${scheme}://hooks.example/hook`], ca, folder });
        const delivered = await send(run.command, { ...run.env, NODE_USE_ENV_PROXY: "", ...env }, proxies.Basic);
        assert.equal(delivered.status, 0, delivered.text);
        assert.match(delivered.text, /got POST \/hook/);
        assert.ok(delivered.text.includes(BODY));
        assert.deepEqual(
          delivered.records.map((record) => [record.verdict, record.client]),
          [["allow", client ?? "outrider"]],
        );
      }
      const url = "https://x.competitor.example/hook";
      const run = sender.command({ urls: [url], ca, folder });
      const refused = await send(run.command, { ...run.env, NODE_USE_ENV_PROXY: "", ...env }, proxies.Basic);
      const { exit, expected } = sender.showsTunnel({ url, status: 403, phrase: REASON });
      assert.ok(refused.text.includes(expected), refused.text);
      assert.equal(refused.status, exit);
      assert.equal(refused.records[0]!.reason, REASON.slice("egress-denied: ".length, REASON.indexOf("; policy")));
    }
  });
}

test("Node: delivers over TLS with injected variables", { skip: missing ?? false }, async () => {
  const pki = new Pki();
  const files = tlsFolder(pki, pki.issue("server", "/CN=proxy", { names: ["IP:127.0.0.1"] }));
  const proxy = await startProxy({
    ...{ policy: {}, netns: net.inside, hosts: `${RECEIVER} hooks.example` },
    args: [
      ...tlsArgs(files).map((arg) => (arg === "127.0.0.1:0" ? `127.0.0.1:${SERVICE_TLS_PORT}` : arg)),
      ...["--resolver", "127.0.0.1:53", "--password-dir", passwords],
    ],
  });
  const authentication = { mode: "Basic", secretRef: { name: "proxy-passwords" } };
  const spec = { authentication, injection: { tls: true }, proxy: { tls: { secretRef: { name: "webhooks-tls" } } } };
  const annotations = { [LABEL.policy]: "webhooks", [ANNOTATION.client]: "billing" };
  const pod: PodLike = { metadata: { annotations }, spec: { containers: [{ name: "agent" }] } };
  const { patch } = inject(pod, { ...targetOf(spec), host: "127.0.0.1" });
  const stored = applied(pod, patch).spec!.containers![0]!;
  const env = environment(stored.env!, SECRETS);
  const { NODE_EXTRA_CA_CERTS: file } = env;
  assert.ok(file?.startsWith(`${stored.volumeMounts![0]!.mountPath}/`), "the file is in the volume");
  const post = `fetch("http://hooks.example/hook", { method: "POST" }).then((r) => r.text()).then(console.log)`;
  const given = { ...env, NODE_EXTRA_CA_CERTS: join(files, "ca.crt") };
  const { status, text, records } = await send([process.execPath, "-e", post], given, proxy);
  assert.equal(status, 0, text);
  assert.match(text, /got POST \/hook/);
  assert.deepEqual([records[0]!.verdict, records[0]!.client], ["allow", "billing"]);
  assert.equal(await proxy.stop(), 0);
});

const noJava =
  spawnSync("javac", ["-version"]).error === undefined ? false : "needs javac (Debian: default-jdk-headless)";
test("Java: delivers with injected variables and shows a denial", { skip: missing ?? noJava }, async () => {
  execFileSync("javac", ["-d", folder, new URL("Sender.java", import.meta.url).pathname], { stdio: "inherit" });
  const env = injected({ preset: "Java", authentication: { mode: "None" } } as never);
  const run = (url: string) => send(["java", "-cp", folder, "Sender", url, ca], env, proxies.None);
  for (const scheme of ["https", "http"]) {
    const { status, text, records } = await run(`${scheme}://hooks.example/hook`);
    assert.equal(status, 0, text);
    assert.match(text, /got POST \/hook/);
    assert.equal(records[0]!.verdict, "allow");
  }
  const { status, text } = await run("https://x.competitor.example/hook");
  assert.equal(status, 1, text);
  assert.match(text, /Tunnel failed, got: 403/);
});
