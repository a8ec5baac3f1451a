import { execFileSync } from "node:child_process";
import { existsSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { workFolder } from "../../cluster/folder.ts";
import { Lane, type LaneSlot } from "./lane.ts";
import { makeFleets, NEXT_IMAGE } from "./restarts.ts";
import type { Run } from "./run.ts";
import type { World } from "./world.ts";

/** The commit of the former version. */
const FORMER = "f9082a2";
const ROOT = new URL("../../..", import.meta.url).pathname;

/** Builds the operator of the former version in a folder. A string says why it cannot be built. */
function formerOperator(path: string): string[] | string {
  try {
    const tree = execFileSync("git", ["archive", FORMER], {
      cwd: ROOT,
      maxBuffer: 2 ** 30,
      stdio: ["ignore", "pipe", "pipe"],
    });
    execFileSync("tar", ["-x", "-C", path], { input: tree });
    symlinkSync(join(ROOT, "node_modules"), join(path, "node_modules"));
    execFileSync(process.execPath, ["bin/image/bundle.ts"], { cwd: path, stdio: ["ignore", "ignore", "pipe"] });
  } catch (error) {
    return String((error as Error).message).split("\n")[0]!;
  }
  const entry = join(path, "dist/outrider.js");
  return existsSync(entry) ? [process.execPath, entry] : `${entry} is missing`;
}

/** The operator of the former version over standing fleets, then this one: all invariants hold. */
export async function upgrade(world: World, [slot]: readonly LaneSlot[], run: Run): Promise<void> {
  const { path, clear } = workFolder("outrider-former-");
  const command = formerOperator(path);
  if (typeof command === "string") {
    clear();
    console.log(`SKIPPED: upgrade from ${FORMER}: ${command}`);
    return;
  }
  const lane = await Lane.open(world, slot!);
  try {
    const former = await lane.start({ command });
    await makeFleets(lane);
    await lane.settle();
    await lane.untilReady();
    await former.stop();
    // Proxies have the image of their operator, so every fleet is restarted.
    await lane.start({ image: NEXT_IMAGE });
    await lane.untilRolledOut(NEXT_IMAGE);
    await lane.settle();
  } finally {
    run.add(`upgrade from ${FORMER}`, await lane.close());
    run.count("upgrades");
    clear();
  }
}
