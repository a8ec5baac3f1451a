import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { delimiter, dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { before, test } from "node:test";
import { packageJson, ROOT } from "../../bin/image/bundle.ts";
import { nodeFlags } from "../../bin/package/flags.ts";
import { npmManifest, type Packed, writeNpmPackage } from "../../bin/package/npm.ts";
import { ALLOWED_URL, commandOf, FIRST_REQUEST } from "../harness/install-page.ts";
import { tempFolder } from "../harness/proxy.ts";
import { buildElsewhere, checkCommands, checkFirstRequest, checkRequest } from "./checks.ts";

/** The npm package: its content, and the program of an installation without network and without a cache. */

const folder = tempFolder();
const home = join(folder, "home");
const program = join(home, "node_modules/.bin/outrider");
/** The one that npm installed, and its `node` in front. */
const PATH = [dirname(process.execPath), process.env.PATH].join(delimiter);
/** A third above the size of the first package. */
const MAX_BYTES = 560 * 1024;
let packed: Packed;

before(async () => {
  process.env.PATH = PATH;
  packed = await writeNpmPackage(folder, { sourceUrl: "https://example.com/outrider" });
});

test("the package has these files, within the limit of its size", () => {
  // The bundler decides into how many files it divides the code.
  const names = packed.files.map(({ path }) => path.replace(/-[A-Z0-9]{8}\.js$/, "-*.js"));
  assert.deepEqual([...new Set(names)].sort(), [
    "LICENSE",
    "README.md",
    "bin/kubectl-egress.cjs",
    "bin/outrider.cjs",
    "dist/LICENSES.txt",
    ...["dist/chunk-*.js", "dist/main-*.js", "dist/outrider.js", "dist/read-worker.js", "dist/run-*.js"],
    ...["dist/sbom.cdx.json", "dist/tools-*.js"],
    "examples/acl.yaml",
    "package.json",
  ]);
  assert.ok(packed.size < MAX_BYTES, `${packed.size} bytes`);
  for (const { path, mode } of packed.files) assert.equal(mode, path.startsWith("bin/") ? 0o755 : 0o644, path);
});

test("another folder, time zone, locale and umask give equal bytes", () => {
  const out = join(folder, "again");
  buildElsewhere("npm.ts", out, ["--source-url", "https://example.com/outrider"]);
  const [first, again] = [folder, out].map((path) => readFileSync(join(path, packed.filename)));
  const modes = spawnSync("tar", ["-tvzf", join(out, packed.filename)], { encoding: "utf8" }).stdout;
  assert.ok(again!.equals(first!), modes);
});

test("its package.json needs Node.js 24 and no other package", () => {
  const { version, description, license, keywords, author } = packageJson();
  assert.deepEqual(npmManifest({ name: "@acme/outrider", sourceUrl: "https://example.com/outrider" }), {
    ...{ name: "@acme/outrider", version, description, keywords, license, author },
    repository: { type: "git", url: "https://example.com/outrider" },
    type: "module",
    bin: { outrider: "bin/outrider.cjs", "kubectl-egress": "bin/kubectl-egress.cjs" },
    engines: { node: ">=24" },
    os: ["!win32"],
  });
  assert.throws(() => npmManifest({ name: "Out rider" }), /--name Out rider: no name of an npm package; use/);
  assert.throws(
    () => npmManifest({ sourceUrl: "git@example.com:x" }),
    /--source-url git@example.com:x: no https URL; use/,
  );
});

test("the script reports a wrong option in one line", () => {
  const script = join(ROOT, "bin/package/npm.ts");
  for (const [args, line] of [
    [["--name", "A"], "--name A: no name of an npm package; use NAME or @SCOPE/NAME\n"],
    [["--nmae"], /^Unknown option '--nmae'.*\n$/],
  ] as const) {
    const { status, stderr } = spawnSync(process.execPath, [script, ...args], { encoding: "utf8" });
    assert.equal(status, 2, stderr);
    assert.match(stderr, typeof line === "string" ? new RegExp(`^${line.replaceAll("/", "\\/")}$`) : line);
  }
});

test("an offline installation runs the commands and serves a request", async (t) => {
  const args = ["install", "--offline", "--no-audit", "--no-fund", "--prefix", home, join(folder, packed.filename)];
  const env = {
    PATH,
    HOME: folder,
    npm_config_cache: join(folder, "empty-cache"),
    npm_config_update_notifier: "false",
  };
  const { status, stdout, stderr } = spawnSync("npm", args, { cwd: folder, env, encoding: "utf8" });
  assert.equal(status, 0, stderr);
  assert.match(stdout, /added 1 package/);
  checkCommands(program);
  const plugin = spawnSync(join(dirname(program), "kubectl-egress"), ["--help"], { env: { PATH }, encoding: "utf8" });
  assert.match(plugin.stdout, /^Usage: kubectl egress COMMAND/, plugin.stderr);
  await checkRequest(t, program);
  await checkFirstRequest(t, program);
});

test("npx sends the first request, as docs/install.md shows", { timeout: 60_000 }, async (t) => {
  const place = tempFolder();
  const { filename } = await writeNpmPackage(place, {
    name: "@owner/outrider",
    sourceUrl: "https://example.com/outrider",
  });
  const command = commandOf("npm package").replace("OWNER", "owner").replace("X.Y.Z", packageJson().version);
  assert.equal(command, `npx ./${filename} proxy --policy acl.yaml`);
  const env = {
    ...{ PATH, HOME: place, npm_config_cache: join(place, "cache"), npm_config_offline: "true" },
    // No terminal confirms the package here.
    ...{ npm_config_yes: "true", npm_config_update_notifier: "false" },
    ...{ OUTRIDER_LISTEN: "127.0.0.1:0", OUTRIDER_ADMIN: "127.0.0.1:0" },
    ...{ OUTRIDER_DRAIN_DELAY_SECONDS: "0", OUTRIDER_DRAIN_SECONDS: "0" },
  };
  const shell = (line: string) => spawnSync("sh", ["-c", line], { cwd: place, env, encoding: "utf8" });
  assert.equal(shell(FIRST_REQUEST.makePolicy).status, 0);
  assert.match(shell(command.replace("proxy", "explain").concat(` ${ALLOWED_URL}`)).stdout, /allow/);
  // A process group of its own gets the signal, as from Ctrl-C: npx does not pass SIGTERM on.
  const child = spawn("sh", ["-c", `exec ${command}`], {
    ...{ cwd: place, env, detached: true },
    stdio: ["ignore", "ignore", "pipe"],
  });
  const signal = (name: NodeJS.Signals) => {
    try {
      process.kill(-child.pid!, name);
    } catch (error) {
      assert.equal((error as NodeJS.ErrnoException).code, "ESRCH");
    }
  };
  const end = () => signal("SIGKILL");
  process.once("exit", end);
  t.after(end);
  let port: string | undefined;
  for await (const line of createInterface(child.stderr!)) {
    port = /"listen":"127\.0\.0\.1:(\d+)".*"msg":"listening"/.exec(line)?.[1] ?? port;
    if (port !== undefined) break;
  }
  assert.ok(port, "the proxy ended before it listened");
  const denied = shell(FIRST_REQUEST.denied.replace("localhost:4750", `127.0.0.1:${port}`));
  assert.equal(denied.stdout.trim(), `${FIRST_REQUEST.answer}acl.yaml`, denied.stderr);
  signal("SIGINT");
  if (child.exitCode === null && child.signalCode === null) await once(child, "exit");
});

test("the program starts Node.js with the flags of bin/outrider", async () => {
  const [proxy, operator] = [nodeFlags().proxy, nodeFlags().operator];
  assert.ok(proxy.length > 1 && operator.length > 2);
  const script = 'process.on("exit", () => console.error(JSON.stringify([process.pid, process.execArgv])))';
  const NODE_OPTIONS = `--import=data:text/javascript,${encodeURIComponent(script)}`;
  for (const [command, flags] of [
    ["proxy", proxy],
    ["operator", operator],
  ] as const) {
    const child = spawnSync(program, [command, "--help"], { env: { PATH, NODE_OPTIONS }, encoding: "utf8" });
    assert.equal(child.status, 0, child.stderr);
    // One line: the first process was replaced and did not exit.
    assert.equal(child.stderr, `${JSON.stringify([child.pid, flags])}\n`);
  }
});

/** A Node.js older than 24 in `PATH`. */
function oldNode(): string | undefined {
  return PATH.split(delimiter)
    .map((path) => join(path, "node"))
    .find((node) => {
      const { stdout } = spawnSync(node, ["-p", "process.versions.node.split('.')[0] < 24"], { encoding: "utf8" });
      return stdout === "true\n";
    });
}

const old = oldNode();
test("an older Node.js prints one line", { skip: old === undefined && "needs a Node.js < 24 in PATH" }, () => {
  const { status, stdout, stderr } = spawnSync(old!, [program, "--version"], { encoding: "utf8" });
  assert.deepEqual([status, stdout], [2, ""]);
  assert.match(stderr, /^outrider: Node\.js \d+\.\d+\.\d+ is too old; install Node\.js 24 or newer\n$/);
});
