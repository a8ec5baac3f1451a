import { readFileSync } from "node:fs";

/** The text of page.html. The bundle contains it instead of this module (`htmlFiles` in bin/image/modules.ts). */
export const HTML = readFileSync(new URL("./page.html", import.meta.url), "utf8");
