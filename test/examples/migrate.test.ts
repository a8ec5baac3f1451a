import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { SETTINGS } from "../../proxy/policy/smokescreen.ts";
import { opensslMissing } from "../harness/certificate.ts";
import { namespaceMissing, runInNamespace } from "../harness/namespace.ts";
import { runOutrider } from "../harness/proxy.ts";

const curlMissing = spawnSync("curl", ["--version"]).error === undefined ? null : "needs curl (Debian: curl)";

test(
  "docs/migrate.md: its commands and files deliver and deny as it says",
  {
    skip: namespaceMissing() ?? opensslMissing() ?? curlMissing ?? false,
  },
  () => runInNamespace(new URL("migrate.inside.ts", import.meta.url)),
);

test("every flag of Smokescreen is refused with its counterpart", async () => {
  const flags = SETTINGS.flatMap(({ flag, ours }) => (flag === undefined ? [] : [{ flag, ours }]));
  assert.ok(flags.length > 20);
  for (const [command, { flag, ours }] of [
    ["proxy", flags[0]!],
    ["check", flags.at(-1)!],
  ] as const) {
    const { status, stderr } = await runOutrider([command, `--${flag}`, "x"]);
    assert.equal(status, 2);
    assert.equal(stderr, `outrider: --${flag} is an option of Smokescreen; here: ${ours} (docs/migrate.md)\n`);
  }
});
