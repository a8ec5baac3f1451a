import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { test } from "node:test";
import { netnsMissing } from "../harness/netns.ts";
import { startProxy } from "../harness/proxy.ts";

/** Local ports on which a process listens. */
function listeningPorts(pid: number): number[] {
  const links = readdirSync(`/proc/${pid}/fd`).map((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`));
  const rows = ["tcp", "tcp6"].flatMap((file) => readFileSync(`/proc/${pid}/net/${file}`, "utf8").trim().split("\n"));
  return rows
    .map((row) => row.trim().split(/\s+/))
    .filter(([, , , state, , , , , , inode]) => state === "0A" && links.includes(`socket:[${inode}]`))
    .map((row) => Number.parseInt(row[1]!.split(":")[1]!, 16))
    .sort();
}

test("a warm-up leaves no record, count, port or connection", async () => {
  const proxy = await startProxy({ policy: { defaultAction: "Deny" }, args: ["--log-level", "debug"] });
  const lines = proxy.stderr().trim().split("\n");
  const at = (msg: string) => lines.findIndex((line) => line.includes(`"msg":"${msg}"`));
  assert.ok(at("warmed up") >= 0 && at("warmed up") < at("listening"), proxy.stderr());
  assert.ok((JSON.parse(lines[at("warmed up")]!) as { requests: number }).requests > 0);
  assert.deepEqual(listeningPorts(proxy.pid), [proxy.port, proxy.adminPort].sort());
  const { connections, active } = await proxy.untilStatus(() => true);
  assert.deepEqual([connections, active], [0, 0]);
  const { text } = await proxy.admin("/metrics");
  assert.doesNotMatch(text, /^outrider_proxy_requests_total\{/m);
  assert.match(text, /^outrider_proxy_bytes_total\{direction="up"\} 0$/m);
  assert.match(text, /^outrider_proxy_connect_seconds_count 0$/m);
  assert.doesNotMatch(text, /warm/);
  assert.equal(await proxy.stop(), 0);
  assert.deepEqual(proxy.records(), []);
});

test("serves with a warning when the warm-up fails", { skip: netnsMissing() ?? false }, async (t) => {
  // A network namespace whose loopback is down has no 127.0.0.1.
  const name = `ort-cold-${process.pid}`;
  execFileSync("ip", ["netns", "add", name]);
  t.after(() => execFileSync("ip", ["netns", "del", name]));
  const proxy = await startProxy({ policy: {}, netns: name, listen: ":0", admin: ":0" });
  assert.match(proxy.stderr(), /"msg":"warm-up failed: the first requests are slower"/);
  assert.equal(await proxy.stop(), 0);
});
