import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { chmodSync, chownSync, existsSync, mkdirSync, readdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { OUTRIDER, tempFolder } from "../harness/proxy.ts";

/** The command keeps its compiled sources, where it can. */

function help(env: Record<string, string>): string {
  const { status, stdout, stderr } = spawnSync(OUTRIDER, ["explain", "--help"], {
    env: { PATH: process.env.PATH ?? "", ...env },
    encoding: "utf8",
  });
  assert.deepEqual([status, stderr], [0, ""]);
  return stdout;
}

test("the command keeps its compiled sources in the user's cache", () => {
  const [cache, home] = [tempFolder(), tempFolder()];
  const text = help({ XDG_CACHE_HOME: cache });
  assert.notDeepEqual(readdirSync(join(cache, "outrider/compile-cache")), []);
  assert.equal(help({ XDG_CACHE_HOME: cache }), text);
  help({ HOME: home });
  assert.ok(existsSync(join(home, ".cache/outrider/compile-cache")));
});

test("the command works without a folder for its compiled sources", () => {
  const file = join(tempFolder(), "file");
  writeFileSync(file, "");
  help({});
  help({ XDG_CACHE_HOME: file });
  const cache = tempFolder();
  help({ XDG_CACHE_HOME: cache, NODE_V8_COVERAGE: tempFolder() });
  assert.deepEqual(readdirSync(cache), []);
});

const isRoot = process.getuid!() === 0;

/** A folder of a cache. Its content after a command that may use it. */
function contentAfter(cache: string): string[] {
  help({ XDG_CACHE_HOME: cache });
  return readdirSync(join(cache, "outrider/compile-cache"));
}

test("the command uses no cache in which other users can write", () => {
  const open = tempFolder();
  mkdirSync(join(open, "outrider/compile-cache"), { recursive: true });
  chmodSync(join(open, "outrider/compile-cache"), 0o1777);
  assert.deepEqual(contentAfter(open), []);
  const parent = tempFolder();
  chmodSync(parent, 0o777);
  assert.deepEqual(contentAfter(parent), []);
  const link = join(tempFolder(), "link");
  symlinkSync(parent, link);
  assert.deepEqual(contentAfter(link), []);
  // Like /tmp: others cannot replace the folders of this user.
  chmodSync(parent, 0o1777);
  assert.notDeepEqual(contentAfter(parent), []);
});

test("root uses no cache below a folder of another user", { skip: isRoot ? false : "needs root" }, () => {
  const home = tempFolder();
  chownSync(home, 65534, 65534);
  assert.deepEqual(contentAfter(home), []);
});
