import assert from "node:assert/strict";
import { globSync, readFileSync } from "node:fs";
import { builtinModules } from "node:module";
import { dirname, join, normalize } from "node:path";
import { test } from "node:test";

const root = new URL("../..", import.meta.url).pathname;
const manifest = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as Record<
  "dependencies" | "devDependencies",
  object
>;

/** Programs whose files and folders must not import each other in a circle. */
const WITHOUT_CIRCLES = ["operator", "proxy"];

interface Import {
  file: string;
  /** A path from the root, or the name of a package. */
  name: string;
  /** `import type` is erased, so it runs nothing. */
  isType: boolean;
  /** The imported names, as written. */
  what: string;
}

const imports = globSync("{proxy,operator}/**/*.ts", { cwd: root }).flatMap((file): Import[] => {
  const text = readFileSync(join(root, file), "utf8");
  return [...text.matchAll(/(?<![.\w])(?:(?:import|export)\s+([^"';]*?)\s*from|import)\s*\(?\s*"([^"]+)"/g)].map(
    ([, what = "", name]) => ({
      file,
      name: name!.startsWith(".") ? normalize(join(dirname(file), name!)) : name!,
      isType: what.startsWith("type "),
      what,
    }),
  );
});
const isBuiltin = (name: string): boolean => name.startsWith("node:") && builtinModules.includes(name.slice(5));
const isOurs = (name: string): boolean => /^(proxy|operator)\//.test(name);

/** Shared by both programs besides the policy engine: command line options and the log. */
const COMMAND_LINE = /^proxy\/cli\//;
const POLICY = /^proxy\/policy\//;

/** The files that each file matching `from` may import. */
const RULES: readonly [rule: string, from: RegExp, allowed: readonly RegExp[]][] = [
  ["the policy engine imports only itself", POLICY, [POLICY]],
  ["the command line imports only itself and the policy engine", COMMAND_LINE, [COMMAND_LINE, POLICY]],
  ["the proxy knows nothing of the operator", /^proxy\//, [/^proxy\//]],
  ["the operator shares the policy engine and the command line", /^operator\//, [/^operator\//, POLICY, COMMAND_LINE]],
  ["kube/ knows nothing of egress", /^operator\/kube\//, [/^operator\/kube\//]],
  ["api/ is below everything but kube/", /^operator\/api\//, [/^operator\/(api|kube)\//]],
  ["fleet/ is below the providers", /^operator\/fleet\//, [/^operator\/(api|kube|fleet)\//, POLICY]],
  [
    "providers/ know nothing of reconcile/",
    /^operator\/providers\//,
    [/^operator\/(api|kube|fleet|providers)\//, POLICY],
  ],
  ["injection/ knows nothing of its webhook", /^operator\/injection\//, [/^operator\/(api|kube|injection)\//, POLICY]],
];

for (const [rule, from, allowed] of RULES) {
  test(rule, () => {
    const inside = imports.filter(({ file }) => from.test(file));
    assert.ok(inside.length > 3);
    for (const { file, name } of inside) {
      assert.ok(!isOurs(name) || allowed.some((one) => one.test(name)), `${file}: ${name}`);
    }
  });
}

test("the policy engine imports ipaddr.js, yaml and node: modules only", () => {
  for (const { file, name } of imports.filter(({ file }) => POLICY.test(file))) {
    assert.ok(isOurs(name) || isBuiltin(name) || ["ipaddr.js", "yaml"].includes(name), `${file}: ${name}`);
  }
});

test("the proxy knows nothing of Kubernetes", () => {
  for (const { file, name } of imports.filter(({ file }) => file.startsWith("proxy/"))) {
    assert.ok(!name.startsWith("@kubernetes/client-node"), `${file}: ${name}`);
  }
});

/** Folders of pure functions. */
const PURE = /^operator\/(injection|overview|reconcile\/(decision|placement|objects|status))\//;
/** Modules that compute and do no I/O. */
const PURE_MODULES = ["node:crypto", "node:util", "node:zlib", "ipaddr.js", "yaml"];
const PURE_KUBE = ["operator/kube/resource.ts", "operator/kube/mapping.ts"];

test("pure folders and their imports do no I/O", () => {
  const reached = new Set(imports.map(({ file }) => file).filter((file) => PURE.test(file)));
  assert.ok(reached.size > 25);
  for (const from of reached) {
    for (const { name, isType, what } of imports.filter(({ file }) => file === from)) {
      if (isType) continue;
      // Only the function of node:net that parses text.
      const isPure = PURE_MODULES.includes(name) || (name === "node:net" && what === "{ isIP }");
      if (!isOurs(name)) assert.ok(isPure, `${from}: ${name}`);
      if (name.startsWith("operator/kube/")) assert.ok(PURE_KUBE.includes(name), `${from}: ${name}`);
      if (name.startsWith("operator/")) reached.add(name);
    }
  }
});

test("programs import runtime dependencies only", () => {
  const known = Object.keys(manifest.dependencies);
  for (const { file, name } of imports) {
    const isKnown = known.some((one) => name === one || name.startsWith(`${one}/`));
    assert.ok(isOurs(name) || isBuiltin(name) || isKnown, `${file}: ${name}`);
  }
});

/** Strongly connected components with several members (Tarjan). */
function circles(edges: ReadonlyMap<string, ReadonlySet<string>>): string[][] {
  const index = new Map<string, number>();
  const low = new Map<string, number>();
  const stack: string[] = [];
  const found: string[][] = [];
  const visit = (node: string) => {
    index.set(node, index.size);
    low.set(node, index.get(node)!);
    stack.push(node);
    for (const next of edges.get(node) ?? []) {
      if (!index.has(next)) visit(next);
      if (stack.includes(next)) low.set(node, Math.min(low.get(node)!, low.get(next)!));
    }
    if (low.get(node) !== index.get(node)) return;
    const component = stack.splice(stack.indexOf(node));
    if (component.length > 1) found.push(component.sort());
  };
  for (const node of edges.keys()) if (!index.has(node)) visit(node);
  return found;
}

function edgesBy(program: string, nodeOf: (file: string) => string): Map<string, Set<string>> {
  const edges = new Map<string, Set<string>>();
  for (const { file, name } of imports) {
    if (!file.startsWith(`${program}/`) || !name.startsWith(`${program}/`)) continue;
    const targets = edges.get(nodeOf(file)) ?? new Set();
    edges.set(nodeOf(file), targets.add(nodeOf(name)));
  }
  return edges;
}

for (const program of WITHOUT_CIRCLES) {
  test(`no files of ${program}/ import each other in a circle`, () => {
    assert.deepEqual(circles(edgesBy(program, (file) => file)), []);
  });
  test(`no folders of ${program}/ import each other in a circle`, () => {
    assert.deepEqual(circles(edgesBy(program, dirname)), []);
  });
}

test("the search for circles finds one", () => {
  const edges = new Map([
    ["a", new Set(["b"])],
    ["b", new Set(["c", "d"])],
    ["c", new Set(["a"])],
    ["d", new Set<string>()],
  ]);
  assert.deepEqual(circles(edges), [["a", "b", "c"]]);
});
