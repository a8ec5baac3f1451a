import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { controlPlaneMissing } from "./control-plane.ts";

/** Processes and folders of a control plane end with the process that started it. */

const skip = controlPlaneMissing({ kwokNodes: 1 }) ?? false;
const GIVE_UP_MS = 20_000;

interface Started {
  folder: string;
  pids: number[];
  url: string;
}

/** A process that starts a control plane; `fail`: stops it and ends with an error, as a failed test file does. */
async function startChild(...args: string[]): Promise<{ child: ChildProcess; started: Started }> {
  const file = new URL("plane-child.ts", import.meta.url).pathname;
  const child = spawn(process.execPath, [file, ...args], { stdio: ["ignore", "pipe", "pipe"] });
  let text = "";
  child.stderr!.on("data", (chunk: Buffer) => {
    text += chunk;
  });
  let out = "";
  child.stdout!.on("data", (chunk: Buffer) => {
    out += chunk;
  });
  for (const began = Date.now(); !out.includes("\n"); await sleep(50)) {
    assert.ok(child.exitCode === null && Date.now() - began < 60_000, `no control plane: ${text}`);
  }
  return { child, started: JSON.parse(out) as Started };
}

/** A process that ended may wait for its parent, as a zombie. */
function isAlive(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    return false;
  }
}

async function untilGone(started: Started): Promise<void> {
  for (const began = Date.now(); ; await sleep(50)) {
    const alive = started.pids.filter(isAlive);
    const folder = existsSync(started.folder);
    if (alive.length === 0 && !folder) return;
    assert.ok(Date.now() - began < GIVE_UP_MS, `still there: processes ${alive}, folder ${folder}`);
  }
}

for (const signal of ["SIGKILL", "SIGINT"] as const) {
  test(`a process that ends by ${signal} leaves no process or folder`, { skip }, async () => {
    const { child, started } = await startChild();
    assert.deepEqual(started.pids.filter(isAlive), started.pids);
    child.kill(signal);
    await once(child, "exit");
    await untilGone(started);
  });
}

test("a process that ends with an error leaves only the logs", { skip }, async () => {
  const { child, started } = await startChild("fail");
  if (child.exitCode === null) await once(child, "exit");
  assert.deepEqual(started.pids.filter(isAlive), []);
  const left = readdirSync(started.folder).filter((name) => name !== "keep");
  assert.ok(left.includes("kube-apiserver.log"));
  assert.deepEqual(
    left.filter((name) => !name.endsWith(".log")),
    [],
  );
  rmSync(started.folder, { recursive: true });
});
