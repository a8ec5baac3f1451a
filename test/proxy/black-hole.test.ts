import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { promisify } from "node:util";
import { makeNetns, netnsMissing } from "../harness/netns.ts";
import { OUTRIDER, startProxy } from "../harness/proxy.ts";

/** Addresses of one name, the first of which drop every packet. */

const run = promisify(execFile);
const RECEIVER = "11.0.0.10";
const SILENT = ["11.0.0.66", "11.0.0.67"];

/** Connections of a network namespace that wait for their SYN-ACK. */
const dialling = (pid: number): number =>
  readFileSync(`/proc/${pid}/net/tcp`, "utf8")
    .split("\n")
    .filter((row) => / 02 /.test(row.slice(0, 40))).length;

test("connects to the next address while the first ones are silent", { skip: netnsMissing() ?? false }, async (t) => {
  const net = makeNetns([RECEIVER], SILENT);
  t.after(() => net.close());
  const echo = spawn("ip", ["netns", "exec", net.internet, OUTRIDER, "echo", "--listen", ":8080"], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  t.after(() => echo.kill("SIGTERM"));
  await once(echo.stdout!, "data");
  const hosts = [...SILENT, RECEIVER].map((address) => `${address} some.example\n`).join("");
  const proxy = await startProxy({
    hosts: `${hosts}${SILENT[0]} silent.example\n`,
    netns: net.inside,
    args: ["--resolver", "127.0.0.1:53", "--connect-seconds", "8"],
  });
  for (const kind of ["connect", "http"] as const) {
    const via = ["--proxy", proxy.url(), ...(kind === "connect" ? ["--proxytunnel"] : [])];
    const curl = ["netns", "exec", net.inside, "curl", "-sS", "--max-time", "20", ...via];
    const { stdout } = await run("ip", [...curl, "http://some.example:8080/ip"]);
    assert.equal(stdout.trim(), "192.0.2.1");
    const record = await proxy.waitRecord((one) => one.kind === kind);
    assert.deepEqual(
      [record.verdict, record.address, record.addresses],
      ["allow", RECEIVER, [...SILENT, RECEIVER]],
      "the addresses are in the order of the answer",
    );
    // The silent ones were tried first.
    assert.ok(Number(record.connectMs) > 100, `${record.connectMs} ms`);
    assert.equal(dialling(proxy.pid), 0, "the other attempts have ended");
  }
  const args = ["netns", "exec", net.inside, "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}"];
  const { stdout } = await run("ip", [...args, "--proxy", proxy.url(), "http://silent.example:8080/ip"]);
  assert.equal(stdout, "504", "it really is silent");
  assert.equal(await proxy.stop(), 0);
});
