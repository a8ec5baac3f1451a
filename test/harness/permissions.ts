import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";

/** The NODE_OPTIONS of docs/proxy.md, with other folders for outrider and for its files. */
export function permissionOptions(program: string, files: string): string {
  const text = readFileSync(new URL("../../docs/proxy.md", import.meta.url), "utf8");
  const assignment = /^ +(NODE_OPTIONS="--permission [^"]*")/m.exec(text)![1]!;
  // As users paste it.
  const options = execFileSync("sh", ["-c", `${assignment}; printf %s "$NODE_OPTIONS"`], { encoding: "utf8" });
  return options.replace("=/app/", `=${program}`).replace("=/etc/outrider/", `=${files}`);
}
