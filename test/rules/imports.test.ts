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

/** What each source file imports: paths from the root, or package names. */
const imports = globSync("{proxy,operator}/**/*.ts", { cwd: root }).flatMap((file) => {
  const text = readFileSync(join(root, file), "utf8");
  return [...text.matchAll(/(?<![.\w])(?:from|import)\s*\(?\s*"([^"]+)"/g)].map((match) => {
    const name = match[1]!;
    return { file, name: name.startsWith(".") ? normalize(join(dirname(file), name)) : name };
  });
});
const isBuiltin = (name: string): boolean => name.startsWith("node:") && builtinModules.includes(name.slice(5));

test("the policy engine imports ipaddr.js, yaml and node: modules only", () => {
  const inside = imports.filter(({ file }) => file.startsWith("proxy/policy/"));
  assert.ok(inside.length > 10);
  for (const { file, name } of inside) {
    assert.ok(
      name.startsWith("proxy/policy/") || isBuiltin(name) || ["ipaddr.js", "yaml"].includes(name),
      `${file}: ${name}`,
    );
  }
});

test("the proxy knows neither the operator nor Kubernetes", () => {
  for (const { file, name } of imports.filter(({ file }) => file.startsWith("proxy/"))) {
    assert.ok(!name.startsWith("operator/") && name !== "@kubernetes/client-node", `${file}: ${name}`);
  }
});

/** What the operator shares with the proxy: the engine that decides, and how a command line is read and a log written. */
const SHARED = ["proxy/options.ts", "proxy/errors.ts", "proxy/log.ts"];

test("the operator takes the engine from the proxy, and how programs are started; nothing else", () => {
  const taken = imports.filter(({ file, name }) => file.startsWith("operator/") && name.startsWith("proxy/"));
  for (const { file, name } of taken) {
    assert.ok(name.startsWith("proxy/policy/") || SHARED.includes(name), `${file}: ${name}`);
  }
});

test("the controller runtime knows nothing of egress", () => {
  for (const { file, name } of imports.filter(({ file }) => file.startsWith("operator/kube/"))) {
    assert.ok(!/^(proxy|operator)\//.test(name) || name.startsWith("operator/kube/"), `${file}: ${name}`);
  }
});

test("builders of objects do no I/O", () => {
  for (const { file, name } of imports.filter(({ file }) => file.startsWith("operator/reconcile/objects/"))) {
    const pure = name.startsWith("operator/")
      ? !/^operator\/kube\/(?!resource\.ts)/.test(name)
      : ["node:crypto", "node:util", "node:zlib"].includes(name);
    assert.ok(pure || name.startsWith("proxy/policy/"), `${file}: ${name}`);
  }
});

test("injection and coverage are pure: they do no I/O, nor does what they import", () => {
  const reached = new Set(["operator/injection/inject.ts", "operator/injection/coverage.ts"]);
  for (const from of reached) {
    for (const { name } of imports.filter(({ file }) => file === from)) {
      const pure =
        /^operator\/(api|injection)\//.test(name) ||
        name.startsWith("proxy/policy/") ||
        name === "operator/kube/resource.ts";
      assert.ok(pure || ["node:crypto", "node:net", "node:util"].includes(name), `${from}: ${name}`);
      if (name.startsWith("operator/injection/")) reached.add(name);
    }
  }
  assert.ok(reached.size > 6);
  // Of node:net only what reads text.
  for (const file of reached) {
    const net = /import (.*) from "node:net"/.exec(readFileSync(join(root, file), "utf8"))?.[1];
    assert.ok(net === undefined || net === "{ isIP }", file);
  }
});

test("programs import runtime dependencies only", () => {
  const known = Object.keys(manifest.dependencies);
  for (const { file, name } of imports) {
    if (/^(proxy|operator)\//.test(name)) continue;
    assert.ok(isBuiltin(name) || known.includes(name), `${file}: ${name}`);
  }
});
