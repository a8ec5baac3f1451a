import { readFileSync } from "node:fs";

/** The NODE_OPTIONS of docs/proxy.md, with other folders for outrider and for its files. */
export function permissionOptions(program: string, files: string): string {
  const text = readFileSync(new URL("../../docs/proxy.md", import.meta.url), "utf8");
  const options = /^ +NODE_OPTIONS="(--permission [^"]*)"/m.exec(text)![1]!;
  return options.replace(/\s+/g, " ").replace("=/app/", `=${program}`).replace("=/etc/outrider/", `=${files}`);
}
