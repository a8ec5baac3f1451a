import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ROOT } from "../image/bundle.ts";

/** Folder of finished packages. */
export const PACKAGES = join(ROOT, "packages");

/** Runs a function with a temporary folder, which is removed afterwards. */
export async function withFolder<T>(use: (folder: string) => Promise<T> | T, parent = tmpdir()): Promise<T> {
  const folder = mkdtempSync(join(parent, "outrider-package-"));
  try {
    return await use(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Error of an option of a build. Its message is one line. */
export class BuildError extends Error {}

/** Runs the main function of a script: prints one line for wrong options, and ends with exit status 2. */
export async function runScript(main: () => Promise<void>): Promise<void> {
  try {
    await main();
  } catch (error) {
    const isUsage = error instanceof BuildError || (error as NodeJS.ErrnoException).code?.startsWith("ERR_PARSE_ARGS");
    if (!isUsage) throw error;
    console.error((error as Error).message);
    process.exitCode = 2;
  }
}
