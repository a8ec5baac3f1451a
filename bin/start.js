import { lstatSync, mkdirSync, realpathSync } from "node:fs";
import { enableCompileCache } from "node:module";
import { dirname, join } from "node:path";

/**
 * Entry point of bin/outrider: both programs from the sources, with a cache of their compiled code. Plain JavaScript:
 * the compiler that removes types takes 10 MiB, and is not needed for what is in the cache.
 */

/** Whether only this user and root can write in a folder or replace it. Others could plant code in a cache otherwise. */
function isPrivate(folder) {
  const users = [0, process.getuid()];
  const cache = realpathSync(folder);
  for (let path = cache; ; path = dirname(path)) {
    const { uid, mode } = lstatSync(path);
    // In a folder with the sticky bit, such as /tmp, only owners replace entries.
    const isWritable = (mode & 0o022) !== 0 && (path === cache || (mode & 0o1000) === 0);
    if (isWritable || !users.includes(uid)) return false;
    if (path === dirname(path)) return true;
  }
}

/** Node keeps the stripped and compiled sources of the former run: a start takes half of the time and 30 MiB less. */
function keepCompiled({ XDG_CACHE_HOME, HOME, NODE_COMPILE_CACHE, NODE_V8_COVERAGE }) {
  const caches = XDG_CACHE_HOME || (HOME && join(HOME, ".cache"));
  if (!caches || NODE_COMPILE_CACHE || NODE_V8_COVERAGE) return;
  const folder = join(caches, "outrider/compile-cache");
  try {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    if (isPrivate(folder)) enableCompileCache(folder);
  } catch {
    // Without a cache the start takes longer.
  }
}

keepCompiled(process.env);
await import("./image/launch.ts");
