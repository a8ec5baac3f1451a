import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { manifest, runOutrider, tempFolder } from "../harness/proxy.ts";

const policy = join(tempFolder(), "policy.yaml");
writeFileSync(policy, manifest({ defaultAction: "Deny", allow: [{ name: "ok", hosts: ["*.ok.example"] }] }));

for (const [typed, meant] of [
  ["operatr", "operator"],
  ["oprator", "operator"],
  ["verfy", "verify"],
] as const) {
  test(`suggests ${meant} for ${typed}`, async () => {
    const { status, stdout, stderr } = await runOutrider([typed]);
    assert.deepEqual([status, stdout], [2, ""]);
    assert.equal(stderr, `outrider: unknown command "${typed}"; did you mean ${meant}?\n`);
  });
}

const targets = [
  "a.ok.example:443",
  "b.ok.example:443",
  "127.1:80",
  "no.example:443",
  "c.ok.example:443",
  "d.ok.example:443",
];

test("explain prints the other targets if one is wrong, and exits with 2", async () => {
  const { status, stdout, stderr } = await runOutrider(["explain", "--policy", policy, ...targets]);
  assert.equal(status, 2);
  const first = stdout.split("\n").filter((line) => /^\S/.test(line));
  assert.deepEqual(first, [
    "a.ok.example:443  allow",
    "b.ok.example:443  allow",
    "no.example:443  deny",
    "c.ok.example:443  allow",
    "d.ok.example:443  allow",
  ]);
  assert.equal(stderr, 'outrider: "127.1:80" is no target: write a URL, host:port or IP:port\n');
});

test("explain --json prints one object for each valid target", async () => {
  const { status, stdout } = await runOutrider(["explain", "--policy", policy, "--json", ...targets]);
  assert.equal(status, 2);
  const shown = stdout
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line).target);
  assert.deepEqual(
    shown,
    targets.filter((target) => target !== "127.1:80"),
  );
});

test("explain names every wrong target", async () => {
  const { status, stdout, stderr } = await runOutrider(["explain", "--policy", policy, "127.1:80", "x"]);
  assert.deepEqual([status, stdout], [2, ""]);
  assert.equal(stderr.trim().split("\n").length, 2);
  assert.match(stderr, /"127\.1:80" is no target/);
  assert.match(stderr, /"x" is no target/);
});

test("outrider operator --help still starts the operator", () => {
  const command = new URL("../../bin/outrider", import.meta.url).pathname;
  const { status, stdout } = spawnSync(command, ["operator", "--help"], { encoding: "utf8" });
  assert.equal(status, 0);
  assert.match(stdout, /^Usage: outrider operator /);
});
