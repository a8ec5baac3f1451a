import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { test } from "node:test";

const SCRIPT = `
import { closeSync, openSync } from "node:fs";
import { readAside } from "./proxy/config/read-aside.ts";
const hosts = Array.from({ length: 3000 }, (_, i) => "- h" + i + ".example.org");
const config = { policy: "acl.yaml", sourceAddresses: [] };
const fds = [];
try {
  for (;;) fds.push(openSync("/dev/null", "r"));
} catch (error) {
  if (error.code !== "EMFILE") throw error;
}
for (let left = 0; left < 8; left++) {
  const { source } = await readAside("global_allow_list:\\n" + hosts.join("\\n"), config, false);
  if (source.document.allow[0].hosts.length !== 3000) throw new Error("not whole");
  closeSync(fds.pop());
}
console.log("read");
`;

test("reads a long policy file without descriptors for a thread", () => {
  const cwd = new URL("../..", import.meta.url).pathname;
  const command = 'ulimit -n 64; exec "$0" --input-type=module -e "$1"';
  assert.equal(execFileSync("sh", ["-c", command, process.execPath, SCRIPT], { cwd, encoding: "utf8" }), "read\n");
});
