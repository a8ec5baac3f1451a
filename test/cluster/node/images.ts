import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fullName, imageOf, layerOf, writeArchive } from "../../../bin/image/archive.ts";
import { tree, writeTar } from "../../../bin/image/tar.ts";
import { findTool } from "../tools.ts";

/** Images of the node tests, as OCI archives. No registry has them, and pods never pull. */

/** The project's own image, as built by `make image-archive`. */
export const IMAGE = "outrider:test";
/** A sender like Convoy, and the sandbox of pods. */
export const SENDER_IMAGE = "outrider-test-sender:1";

/** Writes both archives into a folder; returns their paths. */
export async function makeImages(folder: string): Promise<string[]> {
  mkdirSync(folder, { recursive: true });
  const program = await findTool("sender");
  const files = tree([{ path: "sender", mode: 0o755, content: readFileSync(program) }]);
  const config = { User: "65532:65532", Entrypoint: ["/sender"], Cmd: ["pause"] };
  const { entries } = imageOf(fullName(SENDER_IMAGE), [layerOf(files)], config);
  const sender = join(folder, "sender.tar");
  writeTar(sender, entries);
  const own = join(folder, "outrider.tar");
  await writeArchive(own, IMAGE, process.execPath);
  return [sender, own];
}
