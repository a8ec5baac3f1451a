import { readFileSync } from "node:fs";
import { join } from "node:path";
import { ROOT } from "../image/bundle.ts";

/** Flags of Node.js that bin/outrider starts each program with. Packages use the same ones. */
export function nodeFlags(): { proxy: string[]; operator: string[] } {
  const text = readFileSync(join(ROOT, "bin/outrider"), "utf8");
  const [proxy, operator] = [...text.matchAll(/^\s*flags="(.*)"$/gm)].map(([, flags]) => flags!.split(" "));
  if (proxy === undefined || operator === undefined) throw new Error('bin/outrider: two lines flags="…" expected');
  return { proxy, operator };
}
