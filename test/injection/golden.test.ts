import assert from "node:assert/strict";
import { globSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { parseAllDocuments, stringify } from "yaml";
import { coverage } from "../../operator/injection/coverage.ts";
import { inject, optIn, type PodLike } from "../../operator/injection/inject.ts";
import type { Container } from "../../operator/injection/pod.ts";
import { expectedBy } from "../../operator/injection/variables.ts";
import { applied, targetOf } from "./policies.ts";

/**
 * Pods as they are created, and as they are stored: the first document of a file is the pod and the spec of the policy
 * convoy/webhooks, the second is the result. UPDATE=1 writes the second. Review the difference before you commit it.
 */

const root = new URL("golden/", import.meta.url).pathname;

interface Input {
  about: string;
  namespaceLabels?: Record<string, string>;
  policy: object;
  clusterIP?: string;
  pod: PodLike;
  /** Another webhook adds this container in front, and the API server calls ours again. */
  addedLater?: Container;
}

function outputOf({ namespaceLabels, policy, clusterIP, pod, addedLater }: Input): object {
  const target = targetOf(policy, clusterIP);
  const asks = optIn(pod, namespaceLabels);
  if (asks === undefined) return { asksFor: null };
  assert.equal(asks, target.policy.metadata.name);
  const first = inject(pod, target);
  let stored = applied(pod, first.patch);
  let { warnings, events } = first;
  if (addedLater !== undefined) {
    stored.spec!.containers!.unshift(addedLater);
    const again = inject(stored, target);
    stored = applied(stored, again.patch);
    ({ warnings, events } = again);
  }
  assert.deepEqual(inject(stored, target), { patch: [], warnings, events: [] });
  return { asksFor: asks, coverage: coverage(stored, expectedBy(target), namespaceLabels), warnings, events, stored };
}

const files = globSync("*.yaml", { cwd: root }).sort();

test("the folder has cases, and nothing else", () => {
  assert.ok(files.length >= 40, `${files.length} files`);
  assert.deepEqual(globSync("*", { cwd: root }).sort(), files);
});

for (const file of files) {
  const path = join(root, file);
  const text = readFileSync(path, "utf8");
  const [input] = text.split(/^---$/m);
  const parsed = parseAllDocuments(text)[0]!.toJS() as Input;
  test(`${file}: ${parsed.about}`, () => {
    const output = `${input!.trimEnd()}\n---\n${stringify(outputOf(parsed), { lineWidth: 0 })}`;
    if (process.env.UPDATE === "1") writeFileSync(path, output);
    else assert.equal(output, text);
  });
}
