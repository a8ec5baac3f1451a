import assert from "node:assert/strict";
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createServer, request } from "node:http";
import { type AddressInfo, connect } from "node:net";
import { join } from "node:path";
import { after, test } from "node:test";
import { ALLOWED_URL, commandOf, FIRST_REQUEST } from "../harness/install-page.ts";
import { permissionOptions } from "../harness/permissions.ts";
import { tempFolder } from "../harness/proxy.ts";
import { type DockerRun, parseDockerRun } from "./docker-run.ts";

/** Run by image.test.ts in a network namespace that has loopback alone, which the container shares. */

const layout = process.env.OUTRIDER_IMAGE_LAYOUT!;
const folder = tempFolder();
const START_MS = 30_000;
let containers = 0;

const blob = (digest: string) => join(layout, "blobs", digest.replace(":", "/"));
const read = (path: string) => JSON.parse(readFileSync(path, "utf8"));
const manifest = read(blob(read(join(layout, "index.json")).manifests[0].digest));
const image = read(blob(manifest.config.digest)).config as {
  User: string;
  Env: string[];
  Entrypoint: string[];
  Cmd: string[];
  WorkingDir: string;
  Healthcheck: { Test: [form: string, ...command: string[]] };
};
const rootfs = join(folder, "rootfs");
mkdirSync(rootfs);
for (const layer of manifest.layers) {
  assert.equal(spawnSync("tar", ["-xf", blob(layer.digest), "-C", rootfs]).status, 0);
}

/** A user of the range of a namespace, as OpenShift's restricted-v2 assigns it. */
const ASSIGNED = "1000650000:0";

type Restrictions = Pick<DockerRun, "mounts" | "readOnly" | "noNewPrivileges">;
const RESTRICTED: Restrictions = {
  mounts: [{ source: join(folder, "policy"), destination: "/policy", readOnly: true }],
  readOnly: true,
  noNewPrivileges: true,
};

/** The runc config.json that a container engine derives from the image's configuration. */
function bundleOf(
  args: readonly string[],
  user: string,
  variables: readonly string[],
  { mounts: given, readOnly, noNewPrivileges }: Restrictions,
): string {
  const bundle = join(folder, `bundle-${containers}`);
  mkdirSync(bundle);
  const [uid, gid] = user.split(":").map(Number);
  const none = { bounding: [], effective: [], permitted: [], inheritable: [], ambient: [] };
  const mounts = [
    { destination: "/proc", type: "proc", source: "proc" },
    { destination: "/dev", type: "tmpfs", source: "tmpfs", options: ["nosuid", "mode=755", "size=64k"] },
    ...given.map(({ source, destination, readOnly }) => ({
      ...{ destination, type: "bind", source, options: ["rbind", readOnly ? "ro" : "rw"] },
    })),
  ];
  const config = {
    ociVersion: "1.0.2",
    process: {
      user: { uid, gid },
      env: [...image.Env, ...variables],
      args: [...image.Entrypoint, ...(args.length === 0 ? image.Cmd : args)],
      cwd: image.WorkingDir,
      capabilities: none,
      noNewPrivileges,
    },
    root: { path: rootfs, readonly: readOnly },
    mounts,
    // No network namespace of its own: it uses that of this process.
    linux: { namespaces: ["pid", "mount", "ipc", "uts"].map((type) => ({ type })) },
  };
  writeFileSync(join(bundle, "config.json"), JSON.stringify(config));
  return bundle;
}

interface Container {
  child: ChildProcess;
  id: string;
  output(): string;
}

const start = (...args: string[]): Container => startAs(image.User, [], ...args);

const startAs = (user: string, variables: readonly string[], ...args: string[]): Container =>
  startWith(RESTRICTED, user, variables, args);

function startWith(
  restrictions: Restrictions,
  user: string,
  variables: readonly string[],
  args: readonly string[],
): Container {
  containers++;
  const id = `outrider-test-${process.pid}-${containers}`;
  const runc = ["--root", join(folder, "runc"), "run", "--bundle", bundleOf(args, user, variables, restrictions), id];
  const child = spawn("runc", runc, { stdio: ["ignore", "pipe", "pipe"] });
  let text = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.on("data", (chunk: Buffer) => {
      text += chunk;
    });
  }
  const remove = () => spawnSync("runc", ["--root", join(folder, "runc"), "delete", "--force", id]);
  process.once("exit", remove);
  after(remove);
  return { child, id, output: () => text };
}

async function ended({ child, output }: Container): Promise<{ status: number | null; output: string }> {
  if (child.exitCode === null) await once(child, "close");
  return { status: child.exitCode, output: output() };
}

async function untilOutput({ child, output }: Container, part: string): Promise<void> {
  for (const began = Date.now(); !output().includes(part); ) {
    if (child.exitCode !== null) throw new Error(`it ended with ${child.exitCode}: ${output()}`);
    if (Date.now() - began > START_MS) throw new Error(`it never says ${part}: ${output()}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** The status line of the proxy's answer to CONNECT, and the bytes of the tunnel. */
async function through(port: number, target: string): Promise<string> {
  const socket = connect(port, "127.0.0.1");
  socket.write(`CONNECT ${target} HTTP/1.1\r\nHost: ${target}\r\n\r\n`);
  let text = "";
  socket.on("data", (chunk: Buffer) => {
    const first = text === "";
    text += chunk;
    if (first && text.startsWith("HTTP/1.1 200 ")) {
      socket.write(`GET / HTTP/1.1\r\nHost: ${target}\r\nConnection: close\r\n\r\n`);
    }
  });
  await once(socket, "close");
  return text;
}

const POLICY = {
  apiVersion: "egress.outrider.dev/v1alpha1",
  kind: "EgressPolicy",
  metadata: { name: "image", namespace: "test" },
  spec: { ports: ["1-65535"], allow: [{ hosts: ["receiver.example"] }], defaultAction: "Deny" },
};
mkdirSync(join(folder, "policy"));
writeFileSync(join(folder, "policy/policy.yaml"), JSON.stringify(POLICY));
writeFileSync(join(folder, "policy/hosts"), "127.0.0.1 receiver.example\n");

test("commands of both programs start in the image", async () => {
  const version = await ended(start("--version"));
  assert.deepEqual([version.status, version.output], [0, `${read(join(rootfs, "app/package.json")).version}\n`]);
  const operator = await ended(start("operator", "--help"));
  assert.equal(operator.status, 0, operator.output);
  assert.match(operator.output, /^Usage: outrider operator --proxy-image IMAGE/);
  const wrong = await ended(start("operator"));
  assert.deepEqual([wrong.status, wrong.output], [2, "outrider: --proxy-image IMAGE is required\n"]);
  const health = await ended(start("health"));
  assert.equal(health.status, 1);
  assert.match(health.output, /^outrider: 127\.0\.0\.1:9750: connect ECONNREFUSED/);
});

for (const [who, user, variables] of [
  ["the user of the image", image.User, []],
  ["a user that OpenShift assigns", ASSIGNED, []],
  ["a process with Node's permissions", image.User, [`NODE_OPTIONS=${permissionOptions("/app/", "/policy/")}`]],
] as const) {
  test(`as ${who}: relays an allowed tunnel, denies others, and ends on SIGTERM`, async () => {
    const receiver = createServer((_, response) => response.end("received")).listen(0, "127.0.0.1");
    after(() => receiver.close());
    await once(receiver, "listening");
    const port = (receiver.address() as AddressInfo).port;
    const proxy = startAs(
      user,
      variables,
      ...["proxy", "--policy=/policy/policy.yaml", "--hosts=/policy/hosts", "--listen=127.0.0.1:4750"],
      ...["--allow-cidr=127.0.0.0/8", "--admin=127.0.0.1:9750", "--drain-delay-seconds=0", "--drain-seconds=0"],
    );
    await untilOutput(proxy, '"msg":"listening"');
    assert.match(await through(4750, `receiver.example:${port}`), /^HTTP\/1\.1 200 .*\r\n\r\n[\s\S]*received$/);
    assert.match(
      await through(4750, `127.0.0.1:${port}`),
      /^HTTP\/1\.1 403 egress-denied: 127\.0\.0\.1 is not on the allow list/,
    );
    const ready = request({ host: "127.0.0.1", port: 9750, path: "/readyz", agent: false }).end();
    const [response] = await once(ready, "response");
    assert.equal(response.statusCode, 200);
    response.resume();
    const check = ["--root", join(folder, "runc"), "exec", proxy.id, ...image.Healthcheck.Test.slice(1)];
    const checked = spawnSync("runc", check, { encoding: "utf8" });
    assert.equal(checked.status, 0, checked.stderr);
    const { status } = spawnSync("runc", ["--root", join(folder, "runc"), "kill", proxy.id, "SIGTERM"]);
    assert.equal(status, 0);
    assert.equal((await ended(proxy)).status, 0);
  });
}

test("the command of docs/install.md sends the first request", async () => {
  const home = tempFolder();
  const shell = (command: string) => spawnSync("sh", ["-c", command], { cwd: home, encoding: "utf8" });
  assert.equal(shell(FIRST_REQUEST.makePolicy).status, 0);
  const { image: name, args, ports, dropsCapabilities, ...restrictions } = parseDockerRun(commandOf("image"), home);
  assert.equal(name, "REGISTRY/OWNER/outrider:X.Y.Z");
  // The container uses the network of this process and has no capabilities: the command must ask for both.
  assert.deepEqual(ports, [{ address: "127.0.0.1", host: 4750, container: 4750 }]);
  assert.deepEqual([dropsCapabilities, restrictions.readOnly, restrictions.noNewPrivileges], [true, true, true]);
  const policy = args[args.indexOf("--policy") + 1]!;
  const explained = await ended(startWith(restrictions, image.User, [], ["explain", "--policy", policy, ALLOWED_URL]));
  assert.deepEqual([explained.status, /allowed/.test(explained.output)], [0, true], explained.output);
  const proxy = startWith(restrictions, image.User, [], args);
  await untilOutput(proxy, '"msg":"listening"');
  const { stdout, stderr } = shell(FIRST_REQUEST.denied);
  assert.equal(stdout.trim(), `${FIRST_REQUEST.answer}acl.yaml`, stderr);
  const check = ["--root", join(folder, "runc"), "exec", proxy.id, ...image.Healthcheck.Test.slice(1)];
  const checked = spawnSync("runc", check, { encoding: "utf8" });
  assert.equal(checked.status, 0, checked.stderr);
  assert.equal(spawnSync("runc", ["--root", join(folder, "runc"), "kill", proxy.id, "SIGTERM"]).status, 0);
  assert.equal((await ended(proxy)).status, 0);
});

test("a flag of docker run that no test translates fails", () => {
  const run = (flags: string) => () => parseDockerRun(`docker run ${flags} image proxy`, folder);
  assert.throws(run("--privileged"), /^Error: --privileged: unknown flag of docker run/);
  assert.throws(run("-p 4750"), /^Error: -p 4750: must be ADDRESS:PORT:PORT/);
  assert.throws(run("-v acl.yaml:/acl.yaml"), /^Error: -v acl\.yaml:/);
});
