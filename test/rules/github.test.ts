import assert from "node:assert/strict";
import { existsSync, globSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
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
interface Job {
  permissions?: Record<string, string>;
  needs?: string | string[];
  steps: Step[];
}
interface Workflow {
  on: object;
  permissions: Record<string, string>;
  jobs: Record<string, Job>;
}

const TARGETS = new Set([...read("Makefile").matchAll(/^([a-z][a-z-]*):/gm)].map(([, target]) => target));
const SCRIPTS = Object.keys(JSON.parse(read("package.json")).scripts);

/** Programs of the runner, which only jobs with rights may call. */
const PUBLISHERS = ["cosign", "docker", "gh", "sha256sum"];

/** Checks that a command of ours exists: a make target, `.ci/run` with tiers, an npm script, a file that Node.js runs. */
function checkCommand(where: string, command: string): void {
  const words = command.replace(/^sudo( env)?( "\w+=\$\w+")* /, "").split(" ");
  const [program, ...args] = words;
  assert.ok(["make", ".ci/run", "npm", "node"].includes(program!), `${where}: ${command}`);
  // After the targets come variables, whose values can have spaces.
  const targets = args.slice(0, args.findIndex((arg) => arg.includes("=")) >>> 0);
  if (program === "make") for (const arg of targets) assert.ok(TARGETS.has(arg), `${where}: ${arg}`);
  if (program === "node") assert.ok(existsSync(join(root, args[0]!)), `${where}: ${args[0]}`);
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
      const optional = ["if", "needs", "env", "strategy", "permissions", "outputs", "environment"];
      checkKeys(where, job, ["runs-on", "timeout-minutes", "steps"], optional);
      for (const step of job.steps) {
        assert.equal(Object.keys(step).filter((key) => key === "uses" || key === "run").length, 1, where);
        checkKeys(where, step, [], ["id", "name", "uses", "with", "run", "if", "env"]);
        if (step.run !== undefined && job.permissions === undefined) checkCommand(where, step.run);
      }
    }
  });

  test(`${file} pins every action to a commit, with its version as a comment`, () => {
    const uses = read(file)
      .split("\n")
      .filter((line) => line.includes("uses:"));
    assert.ok(uses.length > 0);
    for (const line of uses) {
      assert.match(line, /^ +- uses: [\w-]+\/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$/);
    }
  });
}

test("the test workflow has a job for each tier", () => {
  const { jobs } = parsed<Workflow>(".github/workflows/test.yml");
  assert.deepEqual(Object.keys(jobs), ["quick", "control-plane", "node"]);
  for (const [name, { steps }] of Object.entries(jobs)) assert.ok(steps.at(-1)!.run!.includes(name), name);
});

/** The rights of jobs that publish. All other jobs can only read. */
const RIGHTS: Readonly<Record<string, Record<string, string>>> = {
  publish: { contents: "read", packages: "write", "id-token": "write", attestations: "write" },
  page: { contents: "write" },
};

test("in the release workflow, few jobs have rights, and each needs the job that builds", () => {
  const { jobs } = parsed<Workflow>(".github/workflows/release.yml");
  for (const [name, { permissions, needs }] of Object.entries(jobs)) {
    assert.deepEqual(permissions, RIGHTS[name], name);
    if (permissions !== undefined) assert.ok([needs].flat().includes("build"), name);
  }
  for (const name of Object.keys(RIGHTS)) assert.ok(name in jobs, name);
  const { jobs: others } = parsed<Workflow>(".github/workflows/test.yml");
  for (const [name, { permissions }] of Object.entries(others)) assert.equal(permissions, undefined, name);
});

test("jobs with rights run no code of packages", () => {
  const { jobs } = parsed<Workflow>(".github/workflows/release.yml");
  const scripts: string[] = [];
  for (const [name, { permissions, steps }] of Object.entries(jobs)) {
    if (permissions === undefined) continue;
    for (const line of steps.flatMap(({ run }) => run?.trim().split(/\n\s*/) ?? [])) {
      const [program, file] = line.replace(/^\(cd \w+ && /, "").split(" ");
      const isPlain = PUBLISHERS.includes(program!) || /^(flags=|files=|if |else$|fi$|echo |exit 1$)/.test(line);
      assert.ok(isPlain || program === "node", `${name}: ${line}`);
      if (program === "node") scripts.push(file!);
    }
  }
  assert.deepEqual(scripts, ["bin/release/sign.ts", "bin/release/publish.ts"]);
  const visited = new Set<string>();
  const visit = (path: string): void => {
    if (visited.has(path)) return;
    visited.add(path);
    for (const [, imported] of read(path).matchAll(/^(?:import|\} from|export .* from) .*?"([^"]+)";$/gm)) {
      if (imported!.startsWith(".")) visit(join(dirname(path), imported!));
      else assert.match(imported!, /^node:/, `${path} imports ${imported}`);
    }
  };
  scripts.forEach(visit);
  assert.ok(visited.has("bin/release/files.ts"));
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
