import { readFileSync } from "node:fs";
import { basename } from "node:path";

/** Files that a program needs besides its code. They are beside it, or inside of the single executable (`bin/package/`). */

/** Loaded late: most commands need no asset. */
const sea = () => process.getBuiltinModule("node:sea");

/** Whether this process is a single executable. */
export const isExecutable = (): boolean => sea().isSea();

/**
 * Text of a file. @param url derived from `import.meta.url`; a single executable has the file under its last part
 * @throws Error when it cannot be read
 */
export function readAsset(url: URL): string {
  return isExecutable() ? sea().getAsset(basename(url.pathname), "utf8") : readFileSync(url, "utf8");
}
