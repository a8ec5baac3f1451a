import assert from "node:assert/strict";
import { execFile, spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { createServer as createPlain } from "node:http";
import { createServer as createTls } from "node:https";
import { join } from "node:path";
import { test } from "node:test";
import { makeCertificate, opensslMissing } from "../harness/certificate.ts";
import { passwordFolder } from "../harness/clients.ts";
import { OPEN_LOOPBACK, startProxy, tempFolder } from "../harness/proxy.ts";
import { listenOnNewPort } from "../harness/raw.ts";
import { SENDERS, type Sender } from "./senders/senders.ts";

const POLICY = JSON.stringify({
  version: 2,
  policy: "test/test",
  defaultAction: "Deny",
  clients: ["billing", "shop"].map((name) => ({ name, allow: [{ hosts: [`${name}.example`] }] })),
});
const PASSWORDS = { PROXY_PASSWORD: "together", billing: "b-pass", shop: "s-pass" };
const HOSTS = "127.0.0.1 billing.example shop.example\n";

/** Why a sender cannot be tested here; false when it can. */
function lacks({ tool: [tool, ...args] }: Sender): string | false {
  return opensslMissing() ?? (spawnSync(tool!, args).error === undefined ? false : `needs ${tool}`);
}

/** Runs a command to its end. */
function run([command, ...args]: string[], env: Record<string, string>): Promise<{ exit: number; text: string }> {
  const { PATH = "", HOME = "" } = process.env;
  return new Promise((resolve) => {
    execFile(command!, args, { env: { PATH, HOME, ...env }, timeout: 30_000 }, (error, out, err) =>
      resolve({ exit: error === null ? 0 : Number(error.code), text: out + err }),
    );
  });
}

for (const sender of SENDERS) {
  test(`${sender.name}: the user name in its proxy URL selects the entry`, { skip: lacks(sender) }, async () => {
    const folder = tempFolder();
    makeCertificate(folder, ["billing.example"]);
    sender.prepare?.(folder);
    const ca = join(folder, "ca.pem");
    const files = { key: readFileSync(join(folder, "key.pem")), cert: readFileSync(ca) };
    const [plain, tls] = [
      createPlain((_, answer) => answer.end("ok")),
      createTls(files, (_, answer) => answer.end("ok")),
    ];
    const ports = { http: await listenOnNewPort(plain), https: await listenOnNewPort(tls) };
    const proxy = await startProxy({
      policy: POLICY,
      args: [...OPEN_LOOPBACK, "--password-dir", passwordFolder(PASSWORDS)],
      hosts: HOSTS,
    });
    for (const scheme of ["http", "https"] as const) {
      const url = `${scheme}://billing.example:${ports[scheme]}/hook`;
      const send = async (user: string, password: string) => {
        const { command, env } = sender.command({ urls: [url], ca, folder });
        const proxyUrl = proxy.url(user, password);
        const variables = { HTTP_PROXY: proxyUrl, http_proxy: proxyUrl, HTTPS_PROXY: proxyUrl, https_proxy: proxyUrl };
        return run(command, { ...variables, ...env });
      };
      const refused = async (user: string, password: string, phrase: string) => {
        const shows = scheme === "https" ? sender.showsTunnel : sender.showsPlain;
        const { exit, expected } = shows({ url, status: 403, phrase });
        const { exit: is, text } = await send(user, password);
        assert.ok(text.includes(expected), `no ${JSON.stringify(expected)} in ${text}`);
        assert.equal(is, exit, text);
      };
      assert.equal((await send("billing", "b-pass")).exit, 0);
      await refused("shop", "s-pass", "egress-denied: billing.example is not on the allow list; policy test/test");
      await refused("stranger", "together", "egress-denied: this client has no entry in the policy");
    }
    await proxy.waitRecord(() => proxy.records().length === 6);
    const decided = proxy.records().map((r) => `${r.client} ${r.entry} ${r.verdict} ${r.code}`);
    const once = ["billing billing allow undefined", "shop shop deny not-allowed", "stranger undefined deny client"];
    assert.deepEqual(decided.sort(), [...once, ...once].sort());
    assert.equal(await proxy.stop(), 0);
    for (const server of [plain, tls]) {
      server.closeAllConnections();
      server.close();
    }
  });
}
