import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { OPERATOR_OPTIONS } from "../../operator/config.ts";
import { variableOf } from "../../proxy/options.ts";
import { runOutrider } from "../harness/proxy.ts";

test("every option of the operator is in --help and in the docs, and the command is in the list of commands", async () => {
  const help = await runOutrider(["operator", "--help"]);
  assert.equal(help.status, 0);
  const documented = readFileSync(new URL("../../docs/operator.md", import.meta.url), "utf8");
  for (const { name, value, repeat, fallback, help: text } of OPERATOR_OPTIONS) {
    assert.match(help.stdout, new RegExp(`^  --${name}( |$)`, "m"));
    const option = `--${name}${value === undefined ? "" : ` ${value.replaceAll("|", "\\|")}`}${repeat ? " …" : ""}`;
    const variable = name === "help" ? "" : `\`${variableOf(name)}\``;
    const row = `| \`${option}\` | ${variable}${variable ? " " : ""}| ${text}${fallback === undefined ? "" : ` (default ${fallback})`} |`;
    assert.ok(documented.includes(`${row}\n`), `docs/operator.md lacks: ${row}`);
  }
  const commands = await runOutrider(["--help"]);
  assert.match(commands.stdout, /^ {2}operator /m);
});
