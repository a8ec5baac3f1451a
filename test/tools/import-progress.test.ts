import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { programMissing } from "../harness/packages.ts";
import { OUTRIDER, runOutrider, tempFolder } from "../harness/proxy.ts";
import { inTerminal } from "../harness/terminal.ts";

/** `outrider import` of a file that takes longer than a second. */

const skip = programMissing("python3") ?? false;
const folder = tempFolder();
const large = join(folder, "acl.yaml");
const lists = ["global_allow_list", "global_deny_list"].map((list) => {
  return `${list}:\n${Array.from({ length: 90_000 }, (_, i) => `  - hook-${i}.${list.slice(7, 11)}.example\n`).join("")}`;
});
writeFileSync(large, `version: v1\ndefault: {project: x, action: enforce}\n${lists.join("")}`);
const PORTS =
  "warning: only the ports 80, 443, 1024-65535 are allowed, and Smokescreen allows every port; set spec.ports to allow others, or use --ports";

/** The command in a shell, with the manifest in a file. */
const importing = (file: string, out: string) => ["sh", "-c", `exec ${OUTRIDER} import ${file} > ${join(folder, out)}`];

test("import of a large file shows progress on a terminal and removes it", { skip }, async () => {
  const { text, lines, status } = await inTerminal(importing(large, "shown.yaml"), { columns: 200 });
  assert.equal(status, 0);
  assert.match(text, /\r\x1b\[K(read|check) the lists \([12] of 3\), \d+ % done, about \d+ s left/);
  assert.deepEqual(lines, [PORTS, ""]);
  const { stdout, stderr } = await runOutrider(["import", large]);
  assert.equal(stderr, `${PORTS}\n`);
  assert.equal(readFileSync(join(folder, "shown.yaml"), "utf8"), stdout);
});

test("Ctrl-C ends an import at once, without a manifest", { skip }, async () => {
  const { lines, status } = await inTerminal(importing(large, "none.yaml"), { interruptAt: "the lists (" });
  assert.deepEqual([lines, status], [[""], -2]);
  assert.equal(readFileSync(join(folder, "none.yaml"), "utf8"), "");
});

test("a terminal shows no progress of a short import, and none before an error", { skip }, async () => {
  const short = join(folder, "short.yaml");
  writeFileSync(short, "version: v1\ndefault: {project: x, action: enforce}\nglobal_allow_list: [a.example]\n");
  const { text } = await inTerminal(importing(short, "short.out"), { columns: 200 });
  assert.equal(text, `${PORTS}\r\n`);
  const wrong = join(folder, "wrong.yaml");
  writeFileSync(wrong, `${readFileSync(large, "utf8")}other: 1\n`);
  const { lines, status } = await inTerminal(importing(wrong, "wrong.out"));
  assert.equal(status, 2);
  assert.match(lines.join("\n"), /^outrider: \S+wrong\.yaml: other: unknown key; known keys: [^\n]*\n$/);
});
