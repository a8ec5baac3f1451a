import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { createServer, request } from "node:http";
import type { AddressInfo } from "node:net";
import { basename, dirname, join } from "node:path";
import type { TestContext } from "node:test";
import { packageJson, ROOT } from "../../bin/image/bundle.ts";
import { ALLOWED_URL, FIRST_REQUEST } from "../harness/install-page.ts";
import { OPEN_LOOPBACK, type ProxyOptions, startProxy, tempFolder } from "../harness/proxy.ts";

/** Checks of an installed program, whichever package it is from. */

const ACL = join(ROOT, "examples/acl.yaml");

/** Name that the policy of examples/acl.yaml allows. */
export const ALLOWED = "hooks.example.com";

/** Runs `--version`, the help of every command, and those that need no network, with right and wrong policies. */
export function checkCommands(program: string): void {
  const run = (...args: string[]) => spawnSync(program, args, { encoding: "utf8" });
  assert.equal(run("--version").stdout, `${packageJson().version}\n`);
  const check = run("check", "--policy", ACL);
  assert.equal(check.status, 0, check.stderr);
  const explain = run("explain", "--policy", ACL, "https://denied.example/");
  assert.match(explain.stdout, /denied\.example/);
  assert.match(explain.stdout, /denied/);
  const commands = [...run("--help").stdout.matchAll(/^ {2}([a-z]+) +\S/gm)].map(([, command]) => command!);
  assert.ok(commands.length >= 11, `${commands}`);
  // Each loads its own code.
  for (const command of [...commands.map((name) => [name]), ["egress", "top"]]) {
    const help = run(...command, "--help");
    assert.match(help.stdout, new RegExp(`^Usage: (outrider|kubectl) ${command.join(" ")} `), help.stderr);
  }
  assert.match(run("diff", ACL, ACL).stdout, /^no difference: /);
  assert.match(run("import", ACL).stdout, /^kind: EgressPolicy$/m);
  const wrong = join(tempFolder(), "wrong.yaml");
  writeFileSync(wrong, "version: v1\nservices: []\nglobl_deny_list: []\n");
  const failed = run("check", "--policy", wrong);
  assert.notEqual(failed.status, 0);
  assert.match(failed.stdout + failed.stderr, /did you mean global_deny_list\?/);
}

/**
 * Runs a script of bin/package as a user whose umask, time zone, locale and folder for temporary files differ. It gets a
 * relative folder, as in the release workflow.
 */
export function buildElsewhere(script: string, out: string, options: readonly string[] = []): void {
  const env = { ...process.env, TZ: "Asia/Kolkata", LC_ALL: "C", TMPDIR: tempFolder() };
  const args = [process.execPath, join(ROOT, "bin/package", script), ...options, "--out", basename(out)];
  const { status, stderr } = spawnSync("sh", ["-c", 'umask 077; exec "$0" "$@"', ...args], {
    cwd: dirname(out),
    env,
    encoding: "utf8",
  });
  assert.equal(status, 0, stderr);
}

/** Sends a request through a proxy to a URL, and returns the response. */
export function requestThrough(
  proxyPort: number,
  url: string,
  host = "127.0.0.1",
): Promise<{ status: number; text: string }> {
  return new Promise((resolve, reject) => {
    const options = {
      host,
      port: proxyPort,
      path: url,
      headers: { host: new URL(url).host },
      agent: false,
    };
    const sent = request(options, (response) => {
      let text = "";
      response.setEncoding("utf8").on("data", (chunk: string) => {
        text += chunk;
      });
      response.on("end", () => resolve({ status: response.statusCode!, text }));
    });
    sent.on("error", reject).end();
  });
}

/** Starts a receiver on loopback. Returns its port. */
export async function startReceiver(t: TestContext): Promise<number> {
  const server = createServer((_, response) => response.end("received"));
  t.after(() => server.close());
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return (server.address() as AddressInfo).port;
}

/**
 * Starts its proxy with examples/acl.yaml, which sends one request and refuses another one, reloads a policy in a worker
 * thread, and stops at SIGTERM.
 */
export async function checkRequest(t: TestContext, program: string, options: ProxyOptions = {}): Promise<void> {
  const port = await startReceiver(t);
  const hosts = `127.0.0.1 ${ALLOWED}\n`;
  const args = [...OPEN_LOOPBACK];
  // Longer than what the main thread parses (proxy/config/read-aside.ts).
  const more = Array.from({ length: 2000 }, (_, index) => `    - "*.n${index}.example"`).join("\n");
  const policy = `version: v1\nservices: []\ndefault:\n  project: p\n  action: enforce\n  allowed_domains:\n    - ${ALLOWED}\n`;
  const proxy = await startProxy({ program, hosts, args, policy, ...options });
  t.after(() => proxy.stop("SIGKILL"));
  const allowed = await requestThrough(proxy.port, `http://${ALLOWED}:${port}/`);
  assert.deepEqual(allowed, { status: 200, text: "received" });
  const health = spawnSync(program, ["health", "--admin", `127.0.0.1:${proxy.adminPort}`], { encoding: "utf8" });
  assert.equal(health.status, 0, health.stderr);
  const denied = `http://x.n7.example:${port}/`;
  assert.equal((await requestThrough(proxy.port, denied)).status, 403);
  const { policy: first } = JSON.parse((await proxy.admin("/status")).text);
  writeFileSync(proxy.policyFile, `${policy}${more}\n`);
  await proxy.untilStatus((status) => status.policy?.hash !== first.hash, 30_000);
  // Allowed by the new policy: the name does not exist here.
  assert.equal((await requestThrough(proxy.port, `http://${ALLOWED}:${port}/`)).status, 200);
  assert.equal(await proxy.stop(), 0);
}

/**
 * The first request of docs/install.md: its policy, its denied request with curl, and the reason that it prints. The allowed
 * one needs the internet, so `explain` decides it.
 */
export async function checkFirstRequest(t: TestContext, program: string, options: ProxyOptions = {}): Promise<void> {
  const folder = tempFolder();
  const shell = (command: string) => spawnSync("sh", ["-c", command], { cwd: folder, encoding: "utf8" });
  assert.equal(shell(FIRST_REQUEST.makePolicy).status, 0);
  const policyFile = join(folder, "acl.yaml");
  const proxy = await startProxy({ program, policyFile, ...options });
  t.after(() => proxy.stop("SIGKILL"));
  const explained = spawnSync(program, ["explain", "--policy", policyFile, ALLOWED_URL], { encoding: "utf8" });
  assert.match(explained.stdout, /allowed/, explained.stderr);
  const { stdout, stderr } = shell(FIRST_REQUEST.denied.replace("localhost:4750", `127.0.0.1:${proxy.port}`));
  assert.equal(stdout.trim(), `${FIRST_REQUEST.answer}acl.yaml`, stderr);
  assert.equal(await proxy.stop(), 0);
}
