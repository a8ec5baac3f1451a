import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { clusterMissing } from "../cluster/node/cluster.ts";
import { removeGroups } from "../cluster/node/machine.ts";
import { namespaceMissing } from "../harness/namespace.ts";

/** Runs `make demo` as a user does, and checks that its cluster ends with it. */

const skip = namespaceMissing() ?? clusterMissing() ?? false;
const SHOWN_MS = 180_000;
const GONE_MS = 30_000;

/** Processes that were started for a folder. */
function processesOf(folder: string): string[] {
  return readdirSync("/proc").filter((pid) => {
    if (!/^\d+$/.test(pid)) return false;
    try {
      return readFileSync(`/proc/${pid}/cmdline`, "utf8").includes(folder);
    } catch {
      return false;
    }
  });
}

for (const signal of ["SIGINT", "SIGKILL"] as const) {
  test(`make demo prints its table; ${signal} removes its cluster`, {
    skip,
    timeout: 300_000,
  }, async () => {
    const { DEMO_CONTEXT: _, ...env } = process.env;
    const file = new URL("../cluster/demo.ts", import.meta.url).pathname;
    const child = spawn(process.execPath, [file], { env, stdio: ["ignore", "pipe", "pipe"] });
    let text = "";
    for (const stream of [child.stdout, child.stderr]) {
      stream.on("data", (chunk: Buffer) => {
        text += chunk;
      });
    }
    for (const began = Date.now(); !text.includes("Ctrl-C stops"); await sleep(100)) {
      assert.ok(child.exitCode === null && Date.now() - began < SHOWN_MS, text);
    }
    assert.match(text, /^webhooks +True +Enforce +External +203\.0\.113\.10 +1\/1 +2\/2 +1\/1 /m);
    assert.match(text, /^http:\/\/hooks\.example\/orders +delivered +203\.0\.113\.10$/m);
    const refused = [...text.matchAll(/^http\S+ +403 +egress-denied: (.*); policy outrider-demo\/webhooks$/gm)];
    assert.deepEqual(
      refused.map(([, reason]) => reason),
      [
        "x.competitor.example is denied by rule competitors",
        "169.254.169.254 is a cloud metadata address (169.254.169.254/32)",
        "kubernetes.default.svc.cluster.local resolves to a private address (10.0.0.0/8)",
        "rebound.evil.example resolves to a private address (10.0.0.0/8)",
      ],
    );
    const [, folder] = /--kubeconfig (\S+)\/admin\.kubeconfig/.exec(text)!;
    const [, pid] = /--net=\/proc\/(\d+)\/ns\/net/.exec(text)!;
    assert.ok(processesOf(folder!).length > 5);

    // Ctrl-C reaches both processes.
    if (signal === "SIGINT") process.kill(Number(pid), signal);
    child.kill(signal);
    if (child.exitCode === null && child.signalCode === null) await once(child, "exit");
    if (signal === "SIGINT") assert.equal(child.exitCode, 0, text);
    const left = () => [
      ...processesOf(folder!),
      ...(existsSync(folder!) ? [folder!] : []),
      ...readFileSync("/proc/mounts", "utf8")
        .split("\n")
        .filter((line) => line.includes(folder!)),
      // After SIGKILL the next cluster removes them, or reports why it cannot.
      ...removeGroups(false).filter((line) => line.includes(`outrider-${pid}-`)),
    ];
    for (const began = Date.now(); left().length > 0; await sleep(100)) {
      assert.ok(Date.now() - began < GONE_MS, `left: ${left().join(", ")}`);
    }
  });
}
