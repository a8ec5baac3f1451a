import assert from "node:assert/strict";
import { type ChildProcess, execFile, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import { freePort } from "../cluster/processes.ts";
import { runOutrider, tempFolder } from "../harness/proxy.ts";

/** Checks that the commands that `make run` prints work. */

const ROOT = new URL("../..", import.meta.url).pathname;
const missing = spawnSync("curl", ["--version"]).error !== undefined && "needs curl";
const run = promisify(execFile);

async function untilPrinted(child: ChildProcess, end: string): Promise<string> {
  let text = "";
  for await (const chunk of child.stdout!.iterator({ destroyOnReturn: false })) {
    text += chunk;
    if (text.includes(end)) return text;
  }
  return assert.fail(`it ended and printed ${text}`);
}

test("make run: the printed curl commands work and explain agrees", {
  skip: missing,
}, async () => {
  const port = await freePort();
  const env = { ...process.env, PORT: `${port}` };
  const child = spawn(process.execPath, ["examples/run.ts"], { cwd: ROOT, env, stdio: ["ignore", "pipe", "ignore"] });
  try {
    const printed = await untilPrinted(child, "Ctrl-C stops both programs.");
    const lines = [...printed.matchAll(/^ +(curl .*)$/gm)].map((match) => match[1]!);
    const ask = async (line: string, more = "") =>
      (await run("sh", ["-c", `${line} -sS -i --max-time 10 ${more}`])).stdout;
    const [allowed, denied, internal] = lines as [string, string, string];
    assert.equal(lines.length, 3);
    assert.match(await ask(allowed), /^HTTP\/1\.1 200 OK\r\n[\s\S]*\r\n\r\n127\.0\.0\.1\n$/);
    assert.match(await ask(allowed, "-p"), /^HTTP\/1\.1 200 Connection established\r\n\r\nHTTP\/1\.1 200 OK\r\n/);
    const phrases = await Promise.all([denied, internal].map(async (line) => (await ask(line)).split("\r\n")[0]!));
    assert.deepEqual(phrases, [
      "HTTP/1.1 403 egress-denied: denied.example is denied by rule global_deny_list; policy acl.yaml",
      "HTTP/1.1 403 egress-denied: internal.example resolves to a private address (10.0.0.0/8); policy acl.yaml",
    ]);
    const hosts = join(tempFolder(), "hosts");
    writeFileSync(hosts, "10.0.0.5 internal.example\n");
    const targets = [denied, internal].map((line) => line.split(" ").at(-1)!);
    const policy = join(ROOT, "examples/acl.yaml");
    const explained = await runOutrider(["explain", "--policy", policy, "--hosts", hosts, "--json", ...targets]);
    assert.equal(explained.status, 1, explained.stderr);
    assert.deepEqual(
      explained.stdout
        .trim()
        .split("\n")
        .map((line) => `HTTP/1.1 403 ${(JSON.parse(line) as { phrase: string }).phrase}`),
      phrases,
    );
  } finally {
    child.kill("SIGINT");
  }
  const [status] = await once(child, "exit");
  assert.equal(status, 0);
});
