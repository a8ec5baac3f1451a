import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { cpSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:https";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { bundleCode, packagesOf, ROOT } from "../../bin/image/bundle.ts";
import { makeCertificate, opensslMissing } from "../harness/certificate.ts";
import { finish } from "../harness/finish.ts";
import { tempFolder } from "../harness/proxy.ts";

/** The bundle, which has only packages that it uses and loads few modules. bin/outrider starts the sources instead. */

const folder = tempFolder();
const entry = join(folder, "dist/outrider.js");
cpSync(join(ROOT, "package.json"), join(folder, "package.json"));
const metafile = await bundleCode(join(folder, "dist"));

test("the bundle has the packages that it uses, and no others", () => {
  assert.deepEqual(
    packagesOf(metafile).map((path) => path.replace(/^.*node_modules\//, "")),
    [
      ...["@kubernetes/client-node", "@pinojs/redact", "atomic-sleep", "ipaddr.js", "jose", "js-yaml", "jsonpath-plus"],
      ...["oauth4webapi", "on-exit-leak-free", "openid-client", "pino", "pino-std-serializers", "prom-client"],
      ...["quick-format-unescaped", "rfc4648", "safe-stable-stringify", "sonic-boom", "yaml"],
    ],
  );
});

/** Node's modules that a proxy of the bundle has loaded when it listens. */
async function loadedModules(policy: string, args: readonly string[] = []): Promise<string[]> {
  const listing = join(folder, "list.mjs");
  writeFileSync(listing, 'process.on("exit", () => console.error(JSON.stringify(process.moduleLoadList)));');
  const command = ["--import", listing, entry, "proxy", "--policy", policy, "--listen", "127.0.0.1:0"];
  const env = { PATH: process.env.PATH, OUTRIDER_DRAIN_DELAY_SECONDS: "0" };
  const child = spawn(process.execPath, [...command, "--admin", "127.0.0.1:0", ...args], {
    ...{ env, cwd: folder, stdio: ["ignore", "pipe", "pipe"] },
  });
  child.stderr!.on("data", (text: Buffer) => {
    if (text.includes('"listening"')) child.kill();
  });
  const { status, stderr } = await finish(child);
  assert.equal(status, 0, stderr);
  const line = stderr.split("\n").find((line) => line.startsWith("["));
  return JSON.parse(line!) as string[];
}

const SELDOM = /undici|NativeModule (tls|https|zlib|_tls_\w+)$/;
const document = join(folder, "policy.json");
writeFileSync(document, JSON.stringify({ version: 1, policy: "a/b", defaultAction: "Allow" }));

test("a proxy of the bundle loads modules for TLS when it needs them", {
  skip: opensslMissing() ?? false,
}, async () => {
  const without = await loadedModules(document);
  assert.ok(without.includes("NativeModule net"));
  assert.deepEqual(
    without.filter((name) => SELDOM.test(name)),
    [],
  );
  const { key, cert } = makeCertificate(folder, ["127.0.0.1"]);
  const files = ["--listen-tls", "127.0.0.1:0", "--tls-cert", cert, "--tls-key", key];
  assert.ok((await loadedModules(document, files)).includes("NativeModule tls"));
});

test("a proxy of the bundle has its page, without a further file", async (t) => {
  const args = [entry, "proxy", "--policy", document, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
  const child = spawn(process.execPath, args, {
    ...{ env: { PATH: process.env.PATH }, cwd: folder, stdio: ["ignore", "pipe", "pipe"] },
  });
  t.after(() => child.kill("SIGKILL"));
  const admin = await new Promise<string>((resolve, reject) => {
    let text = "";
    child.stderr!.on("data", (chunk: Buffer) => {
      text += chunk;
      const line = text.split("\n").find((line) => line.includes('"listening"') && line.endsWith("}"));
      if (line !== undefined) resolve((JSON.parse(line) as { admin: string }).admin);
    });
    child.once("exit", () => reject(new Error(text)));
  });
  const response = await fetch(`http://${admin}/`);
  assert.equal(response.status, 200);
  assert.equal(await response.text(), readFileSync(join(ROOT, "proxy/pages/page.html"), "utf8"));
  assert.ok(Object.keys(metafile.outputs).every((file) => file.endsWith(".js")));
});

/** A server in the place of the API server, which answers each request with a status, and a kubeconfig of it. */
async function startRefusing(
  t: TestContext,
  status: number,
  user: object,
): Promise<{ server: Server; kubeconfig: string }> {
  const { key, cert } = makeCertificate(folder, ["127.0.0.1"]);
  const server = createServer({ key: readFileSync(key), cert: readFileSync(cert) }, (_, response) => {
    response.writeHead(status).end();
  });
  server.listen(0, "127.0.0.1");
  t.after(() => server.close());
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  const kubeconfig = join(folder, `kubeconfig-${status}`);
  writeFileSync(
    kubeconfig,
    JSON.stringify({
      ...{ apiVersion: "v1", kind: "Config", "current-context": "c" },
      clusters: [{ name: "c", cluster: { server: `https://127.0.0.1:${port}`, "certificate-authority": cert } }],
      contexts: [{ name: "c", context: { cluster: "c", user: "u" } }],
      users: [{ name: "u", user }],
    }),
  );
  return { server, kubeconfig };
}

test("an operator of the bundle gets its token from an exec plugin of the kubeconfig", {
  skip: opensslMissing() ?? false,
}, async (t) => {
  const credential = {
    apiVersion: "client.authentication.k8s.io/v1",
    kind: "ExecCredential",
    status: { token: "t0ken" },
  };
  const exec = {
    apiVersion: credential.apiVersion,
    command: process.execPath,
    args: ["-e", `console.log(${JSON.stringify(JSON.stringify(credential))})`],
    interactiveMode: "Never",
  };
  const { server, kubeconfig } = await startRefusing(t, 403, { exec });
  const addresses = ["--metrics", "127.0.0.1:0", "--health", "127.0.0.1:0"];
  const args = [entry, "operator", "--kubeconfig", kubeconfig, "--proxy-image", "x:1", ...addresses];
  const child = spawn(process.execPath, args, {
    ...{ env: { PATH: process.env.PATH }, cwd: folder, stdio: ["ignore", "pipe", "pipe"] },
  });
  const finished = finish(child);
  const first = await Promise.race([once(server, "request"), finished]);
  child.kill();
  const { stderr } = await finished;
  assert.ok(Array.isArray(first), stderr);
  assert.equal(first[0].headers.authorization, "Bearer t0ken");
});

test("the bundle has the commands of users, also by the name of the plugin", {
  skip: opensslMissing() ?? false,
}, async (t) => {
  const { kubeconfig } = await startRefusing(t, 401, { token: "x" });
  const plugin = join(folder, "dist/kubectl-egress");
  symlinkSync("outrider.js", plugin);
  const env = { PATH: process.env.PATH, KUBECONFIG: kubeconfig };
  const run = (args: readonly string[]) =>
    finish(spawn(process.execPath, [...args], { env, cwd: folder, stdio: ["ignore", "pipe", "pipe"] }));
  const rejected = "outrider: the API server rejects the credentials of this context; log in again\n";
  for (const args of [
    [entry, "get"],
    [entry, "egress", "ips", "webhooks"],
    [plugin, "top", "webhooks"],
  ]) {
    const { status, stdout, stderr } = await run(args);
    assert.deepEqual([status, stdout, stderr], [3, "", rejected], args.join(" "));
  }
  assert.match((await run([plugin, "--help"])).stdout, /^Usage: kubectl egress COMMAND/);
});
