import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { test } from "node:test";
import { finish } from "../../harness/finish.ts";

/** Enough for every pair of a client kind and a receiver kind, several times. */
const CONNECTIONS = 3000;
/** After this time no further connection begins: a slow machine makes fewer of them. */
const LOAD_MINUTES = 0.13;
const seed = Number(process.env.SEED ?? Date.now() & 0x7fffffff);

test(`a short fuzz run breaks no invariant (SEED=${seed})`, { timeout: 120_000 }, async (t) => {
  const main = new URL("../../fuzz/main.ts", import.meta.url).pathname;
  const limits = ["--connections", `${CONNECTIONS}`, "--minutes", `${LOAD_MINUTES}`, "--concurrency", "256", "--quick"];
  const child = spawn(process.execPath, [main, "--seed", `${seed}`, ...limits], { stdio: ["ignore", "pipe", "pipe"] });
  t.after(() => child.kill());
  const { status, stdout, stderr } = await finish(child);
  t.diagnostic(stdout.trim().split("\n").at(-1) ?? "");
  assert.equal(status, 0, `${stdout}\n${stderr}`);
  assert.match(stdout, /no violation in \d{3,} connections/);
});
