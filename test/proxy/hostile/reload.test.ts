import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { renameSync, rmSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { Baseline } from "../../harness/baseline.ts";
import { memoryGroup } from "../../harness/memory.ts";
import { manifest, OUTRIDER, type ProxyHandle, runOutrider, startProxy, tempFolder } from "../../harness/proxy.ts";
import { exchange } from "../../harness/raw.ts";

/** Policy and password files that are long, wrong in thousands of places, or not regular files. */

const keepOnly = manifest({ defaultAction: "Deny", allow: [{ hosts: ["keep.example"] }] });
const HOSTS = 40_000;

/** An acl.yaml of 1 MB. */
const longAcl = (last: string) =>
  `version: v1\nservices: []\ndefault:\n  action: enforce\n  allowed_domains:\n${Array.from(
    { length: HOSTS },
    (_, i) => `    - host-${i}.example.org\n`,
  ).join("")}    - ${last}\n`;

function replace(file: string, text: string | Buffer): void {
  writeFileSync(`${file}.new`, text);
  renameSync(`${file}.new`, file);
}

const wire = (host: string) => `CONNECT ${host}:443 HTTP/1.1\r\n\r\n`;
const ask = (proxy: ProxyHandle, host: string) => exchange(proxy.port, wire(host));

test("a reload of 1 MB does not stall requests", async () => {
  const proxy = await startProxy({
    policy: longAcl("first.example"),
    hosts: "10.9.8.7 first.example second.example\n",
  });
  const base = await Baseline.of(proxy);
  assert.match(await ask(proxy, "first.example"), /^HTTP\/1\.1 403 .*private address/);
  let asked = 1;
  let worst = 0;
  let reloading = true;
  const began = performance.now();
  replace(proxy.policyFile, longAcl("second.example"));
  proxy.signal("SIGHUP");
  const requests = (async () => {
    while (reloading) {
      const sent = performance.now();
      assert.match(await ask(proxy, "other.example"), /^HTTP\/1\.1 403 .*not on the allow list/);
      worst = Math.max(worst, performance.now() - sent);
      asked++;
    }
  })();
  await proxy.waitRecord(() => /"changed":true/.test(proxy.stderr().split('"msg":"listening"')[1]!), 20_000);
  const took = performance.now() - began;
  reloading = false;
  await requests;
  assert.match(await ask(proxy, "second.example"), /^HTTP\/1\.1 403 .*private address/);
  assert.ok(worst < took / 3, `a request took ${Math.round(worst)} ms of a reload of ${Math.round(took)} ms`);
  await base.restored(asked + 1);
  assert.equal(await proxy.stop(), 0);
});

test("signals during a long read end with the last file in force", async () => {
  const proxy = await startProxy({ policy: keepOnly });
  const base = await Baseline.of(proxy);
  for (const last of ["one.example", "two.example", "three.example"]) {
    replace(proxy.policyFile, longAcl(last));
    for (let i = 0; i < 10; i++) {
      proxy.signal("SIGHUP");
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }
  replace(proxy.policyFile, keepOnly);
  proxy.signal("SIGHUP");
  const { stdout } = await runOutrider(["check", "--policy", proxy.policyFile]);
  const hash = /sha256:[0-9a-f]{64}/.exec(stdout)![0];
  await new Promise((resolve) => setTimeout(resolve, 1000));
  await proxy.untilStatus((status) => status.policy!.hash === hash && status.policyError === null, 20_000);
  assert.match(await ask(proxy, "three.example"), /^HTTP\/1\.1 403 /);
  await base.restored(1);
  assert.equal(await proxy.stop(), 0);
});

test("rejects files that are not regular, without blocking", async () => {
  const folder = tempFolder();
  writeFileSync(join(folder, "billing"), "b-pass");
  const proxy = await startProxy({
    policy: keepOnly,
    args: ["--password-dir", folder],
    hosts: "10.9.8.7 keep.example\n",
  });
  const base = await Baseline.of(proxy);
  const { policyFile } = proxy;
  const put: [make: (file: string) => void, error: RegExp][] = [
    [(file) => execFileSync("mkfifo", [file]), /a pipe, not a regular file/],
    [(file) => symlinkSync("/dev/zero", file), /a device, not a regular file/],
    [(file) => execFileSync("mkdir", [file]), /EISDIR/],
    [(file) => writeFileSync(file, "x".repeat(9 * 1024 * 1024)), /longer than 8388608 bytes/],
    [
      (file) => {
        writeFileSync(file, "");
        truncateSync(file, 1e12);
      },
      /longer than 8388608 bytes/,
    ],
    [(file) => writeFileSync(file, Buffer.from("global_deny_list: [b\xe4d.example]", "latin1")), /not UTF-8 text/],
  ];
  let asked = 0;
  for (const [make, error] of put) {
    rmSync(policyFile, { recursive: true, force: true });
    make(policyFile);
    await proxy.untilStatus((status) => error.test(status.policyError ?? ""));
    proxy.signal("SIGHUP");
    const authorization = `Proxy-Authorization: Basic ${Buffer.from("billing:b-pass").toString("base64")}\r\n`;
    for (const [host, answer] of [
      ["keep.example", /^HTTP\/1\.1 403 .*private address/],
      ["other.example", /^HTTP\/1\.1 403 .*not on the allow list/],
    ] as const) {
      assert.match(await exchange(proxy.port, `CONNECT ${host}:443 HTTP/1.1\r\n${authorization}\r\n`), answer);
      asked++;
    }
  }
  rmSync(policyFile, { recursive: true, force: true });
  replace(policyFile, keepOnly);
  await proxy.untilStatus((status) => status.policyError === null);
  const file = join(folder, "billing");
  for (const [make, error] of [
    [() => execFileSync("mkfifo", [file]), /billing: a pipe, not a regular file/],
    [() => writeFileSync(file, "x".repeat(5000)), /billing: longer than 4096 bytes/],
  ] as const) {
    rmSync(file);
    make();
    await proxy.untilStatus((status) => error.test(status.policyError ?? ""));
  }
  await base.restored(asked);
  assert.equal(await proxy.stop(), 0);
});

test("60,000 wrong entries leave /status and the log small", async () => {
  const proxy = await startProxy({ policy: keepOnly });
  const base = await Baseline.of(proxy);
  const entries = Array.from({ length: 60_000 }, (_, i) => `- "bad name ${i}"`).join("\n");
  replace(proxy.policyFile, `global_deny_list:\n${entries}\n`);
  await proxy.untilStatus((status) => /global_deny_list\[0\].*and 59990 more/.test(status.policyError ?? ""), 20_000);
  const { text } = await proxy.admin("/status");
  assert.ok(text.length < 8000, `${text.length} bytes`);
  assert.ok(proxy.stderr().length < 8000, `${proxy.stderr().length} bytes`);
  await base.restored(0);
  assert.equal(await proxy.stop(), 0);
});

test("a file that needs much memory to be read does not get a container killed", async (t) => {
  const container = memoryGroup(512 * 1024 * 1024);
  if (container === null) {
    t.skip("needs a control group with a memory limit");
    return;
  }
  const proxy = await startProxy({ policy: keepOnly });
  t.after(async () => {
    await proxy.stop();
    container.close();
  });
  const base = await Baseline.of(proxy);
  container.add(proxy.pid);
  replace(proxy.policyFile, "[".repeat(1_000_000));
  await proxy.untilStatus((status) => /needs more than 128 MiB/.test(status.policyError ?? ""), 20_000);
  await base.restored(0);
  assert.equal(await proxy.stop(), 0);
});

test("reads a pipe at the start, with a time limit", async () => {
  const folder = tempFolder();
  writeFileSync(join(folder, "billing"), "one");
  const shell = `exec "$0" proxy --policy <(printf '%s' "$1") --listen 127.0.0.1:0 --admin 127.0.0.1:0 --password-dir "$2"`;
  const child = spawn("bash", ["-c", shell, OUTRIDER, keepOnly, folder], {
    stdio: ["ignore", "ignore", "pipe"],
    env: { ...process.env, OUTRIDER_DRAIN_DELAY_SECONDS: "0" },
  });
  let log = "";
  child.stderr.on("data", (chunk) => {
    log += chunk;
  });
  const until = async (pattern: RegExp, count = 1) => {
    for (const began = Date.now(); log.split(pattern).length <= count; ) {
      assert.ok(Date.now() - began < 10_000, log);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  };
  await until(/"msg":"listening"/);
  const port = Number(/"listen":"127\.0\.0\.1:(\d+)"/.exec(log)![1]);
  const answer = async (password: string) => {
    const authorization = `Proxy-Authorization: Basic ${Buffer.from(`billing:${password}`).toString("base64")}\r\n`;
    return (await exchange(port, `CONNECT x.example:443 HTTP/1.1\r\n${authorization}\r\n`)).slice(9, 12);
  };
  const loads = log.split("policy loaded").length - 1;
  child.kill("SIGHUP");
  await until(/policy loaded/, loads + 1);
  assert.equal(await answer("one"), "403");
  replace(join(folder, "billing"), "two");
  await until(/policy loaded/, loads + 2);
  assert.deepEqual([await answer("one"), await answer("two")], ["407", "403"]);
  child.kill("SIGTERM");
  assert.deepEqual(await once(child, "close"), [0, null]);

  const pipe = join(folder, "pipe");
  execFileSync("mkfifo", [pipe]);
  const checked = await runOutrider(["check", "--policy", pipe]);
  assert.match(checked.stderr, /the file is empty/);
});
