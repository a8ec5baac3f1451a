import assert from "node:assert/strict";
import { existsSync, globSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { parseDocument } from "yaml";
import { tierNamed } from "../tiers.ts";

/** Workflows, issue forms and dependabot cannot run here. This checks their YAML, their keys, and what they refer to. */

const root = new URL("../..", import.meta.url).pathname;
const read = (path: string) => readFileSync(join(root, path), "utf8");

function parsed<T>(path: string): T {
  const document = parseDocument(read(path), { strict: true, uniqueKeys: true });
  assert.deepEqual([...document.errors, ...document.warnings], [], path);
  return document.toJS() as T;
}

/** Fails if an object has a key that GitHub does not know, or lacks a required one. */
function checkKeys(where: string, object: object, required: readonly string[], optional: readonly string[] = []): void {
  const keys = Object.keys(object);
  for (const key of required) assert.ok(keys.includes(key), `${where} lacks ${key}`);
  for (const key of keys) assert.ok([...required, ...optional].includes(key), `${where}: unknown key ${key}`);
}

interface Step {
  uses?: string;
  run?: string;
}
interface Workflow {
  on: object;
  permissions: Record<string, string>;
  jobs: Record<string, { steps: Step[] }>;
}

const TARGETS = new Set([...read("Makefile").matchAll(/^([a-z][a-z-]*):/gm)].map(([, target]) => target));
const SCRIPTS = Object.keys(JSON.parse(read("package.json")).scripts);

/** Checks that a command of ours exists: a make target, `.ci/run` with tiers, an npm script. */
function checkCommand(where: string, command: string): void {
  const words = command.replace(/^sudo( env)?( "\w+=\$\w+")* /, "").split(" ");
  const [program, ...args] = words;
  assert.ok(["make", ".ci/run", "npm"].includes(program!), `${where}: ${command}`);
  if (program === "make") for (const arg of args) assert.ok(arg.includes("=") || TARGETS.has(arg), `${where}: ${arg}`);
  if (program === ".ci/run") for (const arg of args) assert.ok(tierNamed(arg) !== undefined, `${where}: ${arg}`);
  if (program === "npm") assert.ok(SCRIPTS.includes(args.at(-1)!), `${where}: ${command}`);
}

for (const file of globSync(".github/workflows/*", { cwd: root })) {
  test(`${file} has known keys, few rights and existing commands`, () => {
    const workflow = parsed<Workflow>(file);
    checkKeys(file, workflow, ["name", "on", "permissions", "jobs"], ["concurrency", "env"]);
    checkKeys(`${file}: on`, workflow.on, [], ["push", "pull_request", "schedule", "workflow_dispatch"]);
    assert.deepEqual(workflow.permissions, { contents: "read" });
    for (const [name, job] of Object.entries(workflow.jobs)) {
      const where = `${file}: ${name}`;
      checkKeys(where, job, ["runs-on", "timeout-minutes", "steps"], ["if", "needs", "env", "strategy"]);
      for (const step of job.steps) {
        assert.equal(Object.keys(step).filter((key) => key === "uses" || key === "run").length, 1, where);
        checkKeys(where, step, [], ["name", "uses", "with", "run", "if", "env"]);
        if (step.uses !== undefined) assert.match(step.uses, /^[\w-]+\/[\w-]+@(v\d+|[0-9a-f]{40})$/, where);
        if (step.run !== undefined) checkCommand(where, step.run);
      }
    }
  });
}

test("the test workflow has a job for each tier", () => {
  const { jobs } = parsed<Workflow>(".github/workflows/test.yml");
  assert.deepEqual(Object.keys(jobs), ["quick", "control-plane", "node"]);
  for (const [name, { steps }] of Object.entries(jobs)) assert.ok(steps.at(-1)!.run!.includes(name), name);
});

test("package.json has scripts that call make targets", () => {
  const { scripts } = JSON.parse(read("package.json")) as { scripts: Record<string, string> };
  for (const name of ["start", "test", "lint"]) assert.ok(name in scripts, name);
  for (const [name, command] of Object.entries(scripts)) checkCommand(`package.json: ${name}`, command);
});

interface Form {
  body: { type: string; id?: string; attributes: Record<string, unknown> }[];
}

for (const name of ["bug", "feature"]) {
  test(`the issue form "${name}" has known keys and unique ids`, () => {
    const file = `.github/ISSUE_TEMPLATE/${name}.yml`;
    const form = parsed<Form>(file);
    checkKeys(file, form, ["name", "description", "body"], ["labels", "title", "assignees"]);
    const ids = form.body.flatMap(({ id }) => id ?? []);
    assert.deepEqual(ids, [...new Set(ids)]);
    for (const item of form.body) {
      if (item.type === "markdown") {
        checkKeys(file, item, ["type", "attributes"]);
        checkKeys(file, item.attributes, ["value"]);
        continue;
      }
      assert.ok(["textarea", "input"].includes(item.type), `${file}: ${item.type}`);
      checkKeys(file, item, ["type", "id", "attributes"], ["validations"]);
      checkKeys(file, item.attributes, ["label"], ["description", "placeholder", "render", "value"]);
    }
  });
}

test("the bug form asks for the output of outrider check", () => {
  assert.match(read(".github/ISSUE_TEMPLATE/bug.yml"), /outrider check --policy FILE/);
});

/** File that dependabot needs in the folder of an ecosystem. */
const MANIFESTS: Readonly<Record<string, string>> = {
  npm: "package-lock.json",
  docker: "Dockerfile",
  "github-actions": ".github/workflows",
};

test("dependabot updates ecosystems that exist here", () => {
  const file = ".github/dependabot.yml";
  const config = parsed<{ version: number; updates: Record<string, string>[] }>(file);
  checkKeys(file, config, ["version", "updates"]);
  assert.equal(config.version, 2);
  for (const update of config.updates) {
    checkKeys(file, update, ["package-ecosystem", "directory", "schedule"], ["groups", "ignore"]);
    const manifest = MANIFESTS[update["package-ecosystem"]!];
    assert.ok(manifest !== undefined, update["package-ecosystem"]);
    assert.ok(existsSync(join(root, update.directory!, manifest)), manifest);
  }
});
