import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

/** Commands of docs/install.md, which tests run as they are on the page. */

const PAGE = readFileSync(new URL("../../docs/install.md", import.meta.url), "utf8");

/** First group of a pattern on the page. @throws AssertionError if the page lacks it */
function onPage(pattern: RegExp): string {
  return pattern.exec(PAGE)?.[1] ?? assert.fail(`docs/install.md lacks ${pattern}`);
}

/** Command of a way to install, from the table of the page. */
export const commandOf = (way: string): string =>
  onPage(new RegExp(`^\\| [^|]+ \\| ${way} \\| \`([^\`]+)\` \\|$`, "m"));

/** The first request: shell commands, and the answer to the denied one. */
export const FIRST_REQUEST = {
  makePolicy: onPage(/^ {4}(printf .*> acl\.yaml)$/m),
  start: onPage(/^ {4}(outrider proxy --policy acl\.yaml)$/m),
  allowed: onPage(/^ {4}(curl .* https:\/\/example\.com\/)$/m),
  denied: onPage(/^ {4}(curl .*169\.254\.169\.254.*)$/m),
  answer: onPage(/^ {4}(egress-denied: .*; policy )acl\.yaml$/m),
};

/** URL that the allowed request is for. */
export const ALLOWED_URL = FIRST_REQUEST.allowed.split(" ").at(-1)!;

/** Shell commands that apply the policy on Kubernetes, and the last one, which forwards a port to the fleet. */
export function kubernetesCommands(): { apply: string; forward: string } {
  const block = onPage(/^( {4}kubectl create namespace [\s\S]*?kubectl port-forward .*)$/m).replace(/^ {4}/gm, "");
  const lines = block.split("\n");
  return { apply: lines.slice(0, -1).join("\n"), forward: lines.at(-1)! };
}
