import { readdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, relative } from "node:path";
import type { Plugin } from "esbuild";

/**
 * Modules that the bundle loads late, and parts of packages that it leaves out: both reduce the memory and the time of a
 * start. HTML files, which it contains as text.
 */

const require = createRequire(import.meta.url);

/** Modules that are large or load many others, for features that most processes do not use. */
const SELDOM = ["node:https", "node:tls", "node:zlib", "yaml"];

/** A module that loads another one (an expression) when one of its exports is used. */
function lazily(load: string, names: readonly string[]): string {
  const property = `{ enumerable: true, get: () => ${load}[name] }`;
  return `for (const name of ${JSON.stringify(names)}) Object.defineProperty(exports, name, ${property});`;
}

/** An ES module with the exports of one of Node's (an expression) except getters, which load other modules. */
function directly(load: string, builtin: object): string {
  const properties = Object.entries(Object.getOwnPropertyDescriptors(builtin));
  const names = properties.flatMap(([name, { enumerable, get }]) => (enumerable && get === undefined ? [name] : []));
  const lines = names.map((name) => `const ${name}_ = all.${name}; export { ${name}_ as ${name} };`);
  return `const all = ${load}; export default all; ${lines.join(" ")}`;
}

/**
 * Gets modules of Node by a function. `import` would read all exports of a module, and that of `node:http` loads a client
 * of HTTP and WebSockets that no program here uses.
 */
export const lateModules: Plugin = {
  name: "late modules",
  setup: (build) => {
    build.onResolve({ filter: /^(node:.*|https|tls|zlib)$/ }, ({ path: given, kind }) => {
      const path = given.startsWith("node:") ? given : `node:${given}`;
      if (SELDOM.includes(path)) return { path, namespace: "seldom" };
      return { path, namespace: kind === "require-call" ? "required" : "imported" };
    });
    build.onResolve({ filter: /^yaml$/ }, ({ path, namespace }) =>
      namespace === "seldom" ? undefined : { path, namespace: "seldom" },
    );
    const get = (path: string) => `process.getBuiltinModule("${path}")`;
    build.onLoad({ filter: /./, namespace: "required" }, ({ path }) => ({
      contents: `module.exports = ${get(path)};`,
    }));
    build.onLoad({ filter: /./, namespace: "imported" }, ({ path }) => ({
      contents: directly(get(path), require(path)),
    }));
    build.onLoad({ filter: /./, namespace: "seldom" }, ({ path }) => {
      const load = path.startsWith("node:") ? get(path) : `require("${path}")`;
      return { contents: lazily(load, Object.keys(require(path))), resolveDir: import.meta.dirname };
    });
  },
};

/**
 * Modules that their importers need only for functions that no program here calls: API calls, proxies and SOCKS of the
 * Kubernetes client (`operator/kube` has its own client and rejects `proxy-url`), threads of the log, metrics of clusters of
 * Node processes, exemplars.
 */
const UNUSED: readonly (readonly [importer: RegExp, path: RegExp])[] = [
  [/client-node\/dist\/config\.js$/, /^(undici|socks|socks-proxy-agent|hpagent|\.\/gen\/index\.js)$/],
  [/client-node\/dist\/middleware\.js$/, /^\.\/gen\/rxjsStub\.js$/],
  [/pino\/(pino|lib\/tools)\.js$/, /^\.\/(lib\/)?transport$/],
  [/prom-client\/index\.js$/, /^\.\/lib\/(cluster|pushgateway|summary)$/],
  [/prom-client\/lib\/metrics\/processCpuTotal\.js$/, /^@opentelemetry\/api$/],
];

/** Replaces unused modules by empty ones. A use of their exports would be a TypeError. */
export const unusedModules: Plugin = {
  name: "unused modules",
  setup: (build) => {
    build.onResolve({ filter: /./ }, ({ path, importer }) => {
      const isUnused = UNUSED.some(([from, what]) => from.test(importer) && what.test(path));
      return isUnused ? { path, namespace: "unused" } : undefined;
    });
    build.onLoad({ filter: /./, namespace: "unused" }, () => ({ contents: "module.exports = {};" }));
  },
};

/**
 * Replaces each module `pages/html.ts`, which reads page.html next to it, by one that contains its text. The bundle then
 * needs no further file, in any format and under any name.
 */
export const htmlFiles: Plugin = {
  name: "HTML files",
  setup: (build) => {
    build.onLoad({ filter: /[/\\]pages[/\\]html\.ts$/ }, ({ path }) => {
      const file = join(path, "../page.html");
      return { contents: `export const HTML = ${JSON.stringify(readFileSync(file, "utf8"))};`, watchFiles: [file] };
    });
  },
};

/**
 * The small commands of the proxy in one module. As a module each, they would split their common code into some twenty chunks,
 * and a proxy, which loads most of them, would start 12 ms later.
 */
export const commandsTogether: Plugin = {
  name: "commands together",
  setup: (build) => {
    const root = build.initialOptions.absWorkingDir!;
    // A relative path: the names of the chunks contain a hash of it.
    build.onResolve({ filter: /^\.\/tools\/.*\.ts$/ }, ({ path, kind, resolveDir }) =>
      kind === "dynamic-import"
        ? { path: relative(root, join(resolveDir, dirname(path))), namespace: "commands" }
        : undefined,
    );
    build.onLoad({ filter: /./, namespace: "commands" }, ({ path }) => {
      const folder = join(root, path);
      const files = readdirSync(folder).filter((file) => file.endsWith(".ts"));
      return { contents: files.map((file) => `export * from "./${file}";`).join("\n"), resolveDir: folder };
    });
  },
};
