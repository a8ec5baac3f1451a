import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { readFileSync, statSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { before, test } from "node:test";
import { packageJson, ROOT } from "../../bin/image/bundle.ts";
import { type Executable, writeExecutable } from "../../bin/package/executable.ts";
import { nodeFlags } from "../../bin/package/flags.ts";
import { controlPlaneMissing } from "../cluster/control-plane.ts";
import { finish } from "../harness/finish.ts";
import { commandOf } from "../harness/install-page.ts";
import { programMissing } from "../harness/packages.ts";
import { startProxy, tempFolder } from "../harness/proxy.ts";
import { applyPolicy, untilCondition, warningsOf } from "../operator/operator.ts";
import { startStage } from "../operator/stage.ts";
import { buildElsewhere, checkCommands, checkFirstRequest, checkRequest } from "./checks.ts";

/** The single executable. It runs without `node` in PATH, and without a file of this project. */

const folder = tempFolder();
const skip = programMissing("strip") ?? false;
/** A tenth above the size of the first one. */
const MAX_MIB = 117;
let built: Executable;

/** Environment of a process that prints a value as JSON on stderr when it ends. */
function atExit(value: string): Record<string, string> {
  const file = join(folder, "at-exit.cjs");
  writeFileSync(file, `process.on("exit", () => console.error(JSON.stringify(${value})));`);
  return { NODE_OPTIONS: `--require=${file}` };
}

before(async () => {
  if (skip === false) built = await writeExecutable(folder);
});

test("the file is within the limit of its size, and has the licences of all parts", { skip }, () => {
  assert.ok(built.isStripped);
  const { size, mode } = statSync(built.file);
  assert.ok(size < MAX_MIB * 2 ** 20, `${size} bytes`);
  assert.equal(mode & 0o777, 0o755);
  const licences = readFileSync(built.licences, "utf8");
  for (const part of [
    `Node.js ${process.versions.node}`,
    "OpenSSL",
    "pino 10",
    "ipaddr.js 2",
    "@kubernetes/client-node",
  ]) {
    assert.ok(licences.includes(part), part);
  }
});

test("it runs the commands and serves a request", { skip }, async (t) => {
  const { file } = built;
  checkCommands(file);
  await checkRequest(t, file, { env: { PATH: "/nonexistent", NODE_PATH: "" } });
  const place = tempFolder();
  const install = commandOf("executable").replace("X.Y.Z", packageJson().version).replace("/usr/local/bin", place);
  assert.equal(spawnSync("sh", ["-c", install], { cwd: folder }).status, 0, install);
  await checkFirstRequest(t, join(place, "outrider"));
});

test("it has the flags of the proxy, and accepts compiled code", { skip }, () => {
  const env = atExit("process.execArgv");
  const { status, stderr } = spawnSync(built.file, ["--version"], { env, encoding: "utf8" });
  // Nothing else: Node.js warns about compiled code that it rejects, such as that of other flags.
  assert.deepEqual([status, stderr], [0, `${JSON.stringify(nodeFlags().proxy)}\n`]);
});

test("it loads no module that a start does not need", { skip }, async () => {
  const proxy = await startProxy({ program: built.file, env: atExit("process.moduleLoadList") });
  assert.equal(await proxy.stop(), 0);
  const line = proxy
    .stderr()
    .split("\n")
    .find((text) => text.startsWith("["))!;
  const loaded = JSON.parse(line) as string[];
  assert.ok(loaded.includes("NativeModule net"));
  assert.deepEqual(
    loaded.filter((name) => /undici|NativeModule (tls|https|zlib|_tls_\w+)$/.test(name)),
    [],
  );
});

test("its operator reconciles a policy on a real API server, and its get prints the fleet", {
  skip: skip === false ? (controlPlaneMissing() ?? false) : skip,
  timeout: 180_000,
}, async () => {
  const { plane, operator } = await startStage({
    plane: {},
    namespaces: ["convoy"],
    operator: () => ({ command: [built.file] }),
  });
  await applyPolicy(plane, "convoy", "webhooks", { staticIPs: [{ address: "203.0.113.10" }] });
  await untilCondition(plane, "convoy", "webhooks", "Accepted", "True");
  const slot = "/apis/apps/v1/namespaces/convoy/deployments?labelSelector=egress.outrider.dev/policy=webhooks";
  await plane.until<{ items: object[] }>(slot, (list) => list?.items.length === 1, "the Deployment of the slot");
  const env = { KUBECONFIG: plane.userConfig(), PATH: "/nonexistent" };
  for (const [args, line] of [
    [["get", "-A"], /^convoy +webhooks /m],
    [["egress", "status", "-n", "convoy"], /^webhooks /m],
    [["egress", "ips", "webhooks", "-n", "convoy"], /203\.0\.113\.10/],
  ] as const) {
    const { status, stdout, stderr } = await finish(
      spawn(built.file, args, { env, stdio: ["ignore", "pipe", "pipe"] }),
    );
    assert.equal(status, 0, `${args.join(" ")}: ${stderr}`);
    assert.match(stdout, line);
  }
  assert.deepEqual(warningsOf(operator), []);
  await operator.stop();
  assert.equal(operator.program.exitCode, 0, operator.program.tail);
});

test("another folder, time zone, locale and umask give equal bytes", { skip, timeout: 120_000 }, () => {
  const out = tempFolder();
  buildElsewhere("executable.ts", out);
  for (const [first, name] of [
    [built.file, basename(built.file)],
    [built.licences, basename(built.licences)],
  ] as const) {
    assert.ok(readFileSync(first).equals(readFileSync(join(out, name))), name);
  }
  assert.equal(statSync(join(out, basename(built.file))).mode & 0o777, 0o755);
});

test("the script reports an unknown architecture in one line", () => {
  const script = join(ROOT, "bin/package/executable.ts");
  const { status, stderr } = spawnSync(process.execPath, [script, "--arch", "mips"], { encoding: "utf8" });
  assert.deepEqual([status, stderr], [2, "--arch mips: unknown; use x64 or arm64\n"]);
});

test("the script reports in one line that it cannot get Node.js", () => {
  const script = join(ROOT, "bin/package/executable.ts");
  const env = (more: NodeJS.ProcessEnv) => ({ HOME: folder, PATH: process.env.PATH, ...more });
  for (const [given, line] of [
    [
      { HOME: "/dev/null" },
      /^\/dev\/null\/\.cache\/outrider\/node: ENOTDIR; set XDG_CACHE_HOME to a folder that you can write$/,
    ],
    [{ PATH: "/nonexistent" }, /^npm pack node-linux-\w+@[\d.]+: not found; install npm$/],
    [
      { npm_config_offline: "true", npm_config_cache: join(folder, "no-cache") },
      /^npm pack node-linux-\w+@[\d.]+: .*ENOTCACHED.*[^.]; check the network and the registry of npm$/,
    ],
  ] as const) {
    const { status, stderr } = spawnSync(process.execPath, [script], {
      env: env(given),
      encoding: "utf8",
      timeout: 60_000,
    });
    assert.equal(status, 2, stderr);
    assert.match(stderr.trimEnd(), line);
  }
});
