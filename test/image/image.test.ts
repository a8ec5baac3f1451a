import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { cpSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:https";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { before, test } from "node:test";
import { fullName, imageConfig, writeArchive } from "../../bin/image/archive.ts";
import { packageJson, ROOT } from "../../bin/image/bundle.ts";
import { labelsOf, timeOf } from "../../bin/image/labels.ts";
import { tar, tree } from "../../bin/image/tar.ts";
import { makeCertificate, opensslMissing } from "../harness/certificate.ts";
import { finish } from "../harness/finish.ts";
import { namespaceMissing, runInNamespace } from "../harness/namespace.ts";
import { programMissing } from "../harness/packages.ts";
import { tempFolder } from "../harness/proxy.ts";
import { inTerminal } from "../harness/terminal.ts";

const NAME = "outrider:test";
const folder = tempFolder();
const archive = join(folder, "image.tar");
const layout = join(folder, "layout");
let digest: string;

before(async () => {
  digest = await writeArchive(archive, NAME, process.execPath);
  mkdirSync(layout);
  run("tar", ["-xf", archive, "-C", layout]);
});

function run(
  command: string,
  args: readonly string[],
  options: { cwd?: string; env?: NodeJS.ProcessEnv } = {},
): string {
  const { status, stdout, stderr, error } = spawnSync(command, args, { encoding: "utf8", ...options });
  assert.equal(status, 0, `${command} ${args.join(" ")}: ${error?.message ?? stderr}`);
  return stdout;
}

const blobPath = (name: string) => join(layout, "blobs", name.replace(":", "/"));
const read = (path: string) => JSON.parse(readFileSync(path, "utf8"));

test("the archive is an OCI layout with valid digests", () => {
  assert.deepEqual(read(join(layout, "oci-layout")), { imageLayoutVersion: "1.0.0" });
  const index = read(join(layout, "index.json"));
  assert.equal(index.manifests[0].digest, digest);
  assert.equal(index.manifests[0].annotations["io.containerd.image.name"], "docker.io/library/outrider:test");
  const manifest = read(blobPath(digest));
  const config = read(blobPath(manifest.config.digest));
  assert.deepEqual(
    config.rootfs.diff_ids,
    manifest.layers.map((layer: { digest: string }) => layer.digest),
  );
  const blobs = [index.manifests[0], manifest.config, ...manifest.layers] as { digest: string; size: number }[];
  assert.equal(readdirSync(join(layout, "blobs/sha256")).length, blobs.length);
  for (const blob of blobs) {
    const content = readFileSync(blobPath(blob.digest));
    assert.equal(content.length, blob.size);
    assert.equal(`sha256:${createHash("sha256").update(content).digest("hex")}`, blob.digest);
  }
});

/** `make image-archive` with an archive of this name, without the installation of packages. */
const making = (out: string) => {
  return [
    "make",
    "-s",
    "-C",
    ROOT,
    "-o",
    "install",
    "image-archive",
    `IMAGE=${NAME}`,
    "REVISION=",
    `ARGS=--out ${out}`,
  ];
};
const made = (out: string) => `${out}: docker.io/library/outrider:test ${digest}`;

test("equal input gives equal bytes, and a pipe gets no progress", async () => {
  const again = join(folder, "again.tar");
  const [command, ...args] = making(again);
  const { stdout, stderr } = await finish(spawn(command!, args, { stdio: ["ignore", "pipe", "pipe"] }));
  assert.deepEqual([stdout, stderr], [`${made(again)}\n`, ""]);
  assert.ok(readFileSync(again).equals(readFileSync(archive)));
});

test("make image-archive shows progress on a terminal and removes it", {
  skip: programMissing("python3") ?? false,
}, async () => {
  const out = join(folder, "shown.tar");
  const interrupted = await inTerminal(making(out), { interruptAt: "bundle the code" });
  assert.doesNotMatch(interrupted.lines.join("\n"), /bundle|archive\.ts/);
  assert.notEqual(interrupted.status, 0);
  const { text, lines, status } = await inTerminal(making(out), { columns: 400 });
  for (const [i, part] of ["bundle the code", "build the layers", "write the archive"].entries()) {
    assert.match(text, new RegExp(`\\r\\x1b\\[K${part} \\(${i + 1} of 3\\), \\d+ % done, `));
  }
  assert.deepEqual([lines, status], [[made(out), ""], 0]);
});

test("has licences and SBOM, no shell, and no writable files", () => {
  const manifest = read(blobPath(digest));
  const lines = manifest.layers.flatMap((layer: { digest: string }) =>
    run("tar", ["-tvf", blobPath(layer.digest)])
      .trim()
      .split("\n"),
  ) as string[];
  const files = new Map(lines.map((line) => [line.split(" ").at(-1)!, line.slice(0, 10)]));
  assert.equal(files.get("nodejs/bin/node"), "-rwxr-xr-x");
  assert.equal(files.get("app/dist/outrider.js"), "-rw-r--r--");
  assert.equal(files.get("tmp/"), "drwxrwxrwt");
  for (const [path, mode] of files) {
    assert.ok(path === "tmp/" || /^[d-]rw.r-.r-.$/.test(mode), `${path} ${mode}`);
    assert.doesNotMatch(path, /(^|\/)(sh|bash|dash|busybox|npm|apt)$/);
  }
  assert.match(readFileSync(join(ROOT, "dist/LICENSES.txt"), "utf8"), /^ipaddr\.js \d+\.\d+\.\d+ \(MIT\)$/m);
  const sbom = read(join(ROOT, "dist/sbom.cdx.json"));
  assert.equal(sbom.metadata.component.name, "outrider");
  const names = sbom.components.map(({ name }: { name: string }) => name);
  for (const name of Object.keys(read(join(ROOT, "package.json")).dependencies)) assert.ok(names.includes(name), name);
});

test("the bundle reads a long policy file in a thread of its own", async () => {
  const policy = join(folder, "acl.yaml");
  const names = Array.from({ length: 2000 }, (_, i) => `- host-${i}.example.org`);
  writeFileSync(policy, `global_allow_list:\n${names.join("\n")}\n`);
  const args = ["dist/outrider.js", "proxy", "--policy", policy, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
  const env = { ...process.env, OUTRIDER_DRAIN_DELAY_SECONDS: "0" };
  const child = spawn(process.execPath, args, { cwd: ROOT, env, stdio: ["ignore", "ignore", "pipe"] });
  const lines: string[] = [];
  for await (const line of createInterface(child.stderr)) {
    lines.push(line);
    if (line.includes('"listening"')) child.kill();
  }
  if (child.exitCode === null) await once(child, "exit");
  assert.equal(child.exitCode, 0, lines.join("\n"));
  assert.match(lines.join("\n"), /"policy":"acl\.yaml".*"msg":"policy loaded"/);
});

test("image names are those that containerd expects", () => {
  assert.equal(fullName("outrider:1"), "docker.io/library/outrider:1");
  assert.equal(fullName("team/outrider:1"), "docker.io/team/outrider:1");
  assert.equal(fullName("registry.example:5000/outrider:1"), "registry.example:5000/outrider:1");
  assert.equal(fullName("localhost/outrider:1"), "localhost/outrider:1");
});

test("make image and make image-archive both take the image's name from IMAGE", {
  skip: programMissing("make") ?? false,
}, () => {
  const name = "registry.example/outrider:9";
  for (const [target, said] of [
    ["image", `-t ${name} .`],
    ["image-archive", `--name ${name}`],
  ] as const) {
    const { stdout } = spawnSync("make", ["-n", target, `IMAGE=${name}`], { cwd: ROOT, encoding: "utf8" });
    assert.ok(stdout.includes(said), stdout);
  }
});

test("tar: splits long paths and rejects too long ones", () => {
  const name = `${"a".repeat(90)}/${"b".repeat(90)}`;
  const file = join(folder, "long.tar");
  const entries = tree([{ path: name, mode: 0o600, content: Buffer.from("x".repeat(513)) }]);
  spawnSync("sh", ["-c", `cat >${file}`], { input: Buffer.concat([...tar(entries)]) });
  assert.equal(run("tar", ["-tf", file]), `${"a".repeat(90)}/\n${name}\n`);
  assert.equal(run("tar", ["-xOf", file, name]).length, 513);
  assert.throws(() => [...tar([{ path: "c".repeat(101), mode: 0, content: Buffer.alloc(0) }])], /too long/);
});

const dockerfile = readFileSync(join(ROOT, "Dockerfile"), "utf8");

test("the Dockerfile has the same user, entry point, ports and labels", () => {
  const last = dockerfile.slice(dockerfile.lastIndexOf("\nFROM")).replaceAll("\\\n", " ");
  const one = (word: string) => new RegExp(`^${word} (.*)$`, "m").exec(last)![1]!;
  const config = imageConfig();
  assert.equal(one("USER"), config.User);
  // Pods set runAsNonRoot and no user, which the kubelet checks by the number.
  assert.match(config.User, /^[1-9][0-9]*:[1-9][0-9]*$/);
  assert.equal(one("WORKDIR"), config.WorkingDir);
  assert.deepEqual([one("ENV")], config.Env);
  assert.deepEqual(JSON.parse(one("ENTRYPOINT")), config.Entrypoint);
  assert.deepEqual(JSON.parse(one("CMD")), config.Cmd);
  assert.deepEqual(
    one("EXPOSE").split(" "),
    Object.keys(config.ExposedPorts).map((port) => port.replace("/tcp", "")),
  );
  const labels = [...one("LABEL").matchAll(/(\S+)="([^"]*)"/g)].map(([, key, value]) => [key, value]);
  const version = /^ARG VERSION=(.*)$/m.exec(last)![1]!;
  assert.equal(version, packageJson().version);
  assert.deepEqual(
    Object.fromEntries(labels.map(([key, value]) => [key, value!.replaceAll(`\${VERSION}`, version)])),
    // The archive has no base: it takes Node.js from the machine that builds it.
    { ...config.Labels, "org.opencontainers.image.base.name": `\${BASE}` },
  );
  const { Test, Interval, Timeout, StartPeriod } = config.Healthcheck;
  const times = [
    `--interval=${Interval / 1e9}s`,
    `--timeout=${Timeout / 1e9}s`,
    `--start-period=${StartPeriod / 1e9}s`,
  ];
  const [form, ...command] = Test;
  const [, options, exec] = /^(.*) CMD (.*)$/.exec(one("HEALTHCHECK"))!;
  assert.deepEqual([form, options, JSON.parse(exec!)], ["CMD", times.join(" "), command]);
});

const SOURCE = {
  repository: "https://git.example/team/outrider",
  revision: "0123456789abcdef0123456789abcdef01234567",
};
const EPOCH = "1700000000";

test("both builds label the image with its source and time", { skip: programMissing("make") ?? false }, () => {
  const env = { ...process.env, SOURCE_DATE_EPOCH: EPOCH };
  const given = [`REPOSITORY_URL=${SOURCE.repository}`, `REVISION=${SOURCE.revision}`];
  const labels = labelsOf({ ...SOURCE, created: timeOf(EPOCH) });
  const always = labelsOf({});
  const added = Object.entries(labels).filter(([key]) => !(key in always));
  assert.deepEqual(
    added.map(([key, value]) => `${key.replace("org.opencontainers.image.", "")} ${value}`),
    [
      `revision ${SOURCE.revision}`,
      ...[`source ${SOURCE.repository}`, `url ${SOURCE.repository}`, `documentation ${SOURCE.repository}#readme`],
      "created 2023-11-14T22:13:20Z",
    ],
  );
  const line = run("make", ["-n", "image", ...given], { cwd: ROOT, env });
  const args = [...line.matchAll(/--label (\S+?)=(\S+)/g)].map(([, key, value]) => [key, value!.replace("\\#", "#")]);
  assert.deepEqual(args, added);
  const archived = run("make", ["-n", "image-archive", ...given], { cwd: ROOT, env });
  assert.ok(archived.includes(`--revision ${SOURCE.revision} --repository ${SOURCE.repository}`), archived);
  const none = run("make", ["-n", "image", "REVISION="], { cwd: ROOT, env: { ...process.env, SOURCE_DATE_EPOCH: "" } });
  assert.doesNotMatch(none, /--label/);
  assert.throws(
    () => timeOf("yesterday"),
    /^Error: SOURCE_DATE_EPOCH must be a time in whole seconds since 1970, not "yes/,
  );
});

const MIB = 1024 * 1024;
/** Limits in MiB, which docs/operator.md shows: the bundle, and the image without compression. */
const LIMITS = { bundle: 2, image: 140 };

test("the image is not larger than docs/operator.md says", () => {
  const sizes = read(blobPath(digest)).layers.map(({ size }: { size: number }) => size) as number[];
  assert.ok(sizes[1]! <= LIMITS.bundle * MIB, `bundle: ${sizes[1]} bytes`);
  assert.ok(sizes[0]! + sizes[1]! <= LIMITS.image * MIB, `image: ${sizes[0]! + sizes[1]!} bytes`);
  const text = readFileSync(join(ROOT, "docs/operator.md"), "utf8").replace(/\s+/g, " ");
  assert.ok(text.includes(`at most ${LIMITS.image} MiB, with a bundle of at most ${LIMITS.bundle} MiB`));
});

test("--attest writes statements about the image that it built", () => {
  const out = join(folder, "attested.tar");
  const args = ["bin/image/archive.ts", "--out", out, "--name", "registry.example:5000/team/outrider:1", "--attest"];
  const source = ["--repository", SOURCE.repository, "--revision", SOURCE.revision];
  const env = { ...process.env, SOURCE_DATE_EPOCH: EPOCH };
  const said = run(process.execPath, [...args, ...source, "--builder", "https://builder.example/"], { cwd: ROOT, env });
  const built = /sha256:([0-9a-f]{64})$/m.exec(said)![1];
  const config = JSON.parse(
    run("tar", [
      "-xOf",
      out,
      `blobs/sha256/${JSON.parse(run("tar", ["-xOf", out, `blobs/sha256/${built}`])).config.digest.slice(7)}`,
    ]),
  );
  assert.deepEqual(config.config.Labels, labelsOf({ ...SOURCE, created: timeOf(EPOCH) }));
  assert.equal(config.created, "2023-11-14T22:13:20Z");
  const [provenance, sbom] = ["provenance", "sbom"].map((kind) => read(join(folder, `attested.${kind}.json`)));
  for (const statement of [provenance, sbom]) {
    assert.equal(statement._type, "https://in-toto.io/Statement/v1");
    assert.deepEqual(statement.subject, [{ name: "registry.example:5000/team/outrider", digest: { sha256: built } }]);
  }
  assert.equal(provenance.predicateType, "https://slsa.dev/provenance/v1");
  const { buildDefinition, runDetails } = provenance.predicate;
  assert.equal(runDetails.builder.id, "https://builder.example/");
  const [git, ...others] = buildDefinition.resolvedDependencies;
  assert.deepEqual(git, { uri: `git+${SOURCE.repository}`, digest: { gitCommit: SOURCE.revision } });
  const sha256 = (path: string) => createHash("sha256").update(readFileSync(path)).digest("hex");
  const digests = new Map(
    others.map((one: { name: string; digest: { sha256: string } }) => [one.name, one.digest.sha256]),
  );
  assert.equal(digests.get("package-lock.json"), sha256(join(ROOT, "package-lock.json")));
  assert.equal(digests.get("nodejs/bin/node"), sha256(process.execPath));
  assert.equal(sbom.predicateType, "https://cyclonedx.org/bom");
  const inside = sbom.predicate.components.map(
    ({ name, version = "" }: { name: string; version?: string }) => `${name} ${version}`,
  );
  for (const one of ["ipaddr.js 2.5.0", `node ${process.versions.node}`]) assert.ok(inside.includes(one), one);
  assert.ok(inside.some((name: string) => /\/libc\.so\.6 $/.test(name)));
});

test("--attest refuses a source that others cannot get", () => {
  const out = join(folder, "refused.tar");
  for (const [args, message] of [
    [[], "archive.ts: --repository is required: a provenance names the source of the image\n"],
    [
      ["--repository", SOURCE.repository, "--revision", `${SOURCE.revision}-dirty`],
      `archive.ts: --revision must be a commit without local changes, not "${SOURCE.revision}-dirty": a provenance names this commit\n`,
    ],
  ] as const) {
    const command = ["bin/image/archive.ts", "--out", out, "--attest", ...args];
    const { status, stderr } = spawnSync(process.execPath, command, { cwd: ROOT, encoding: "utf8" });
    assert.deepEqual([status, stderr], [2, message]);
  }
});

/** Instructions of the first stage that copy or run. `secrets`: the folder in place of /run/secrets. */
function buildSteps(secrets: string): { kind: string; rest: string }[] {
  const build = dockerfile.split(/^FROM /m)[1]!.replaceAll("\\\n", " ");
  const steps = [...build.matchAll(/^(COPY|RUN) +((?:--mount=\S+ +)*)(.+)$/gm)];
  return steps.map(([, kind, , rest]) => ({ kind: kind!, rest: rest!.replaceAll("/run/secrets", secrets) }));
}

test("npm of the Dockerfile uses the registry, credentials and authority of make image", {
  skip: opensslMissing() ?? false,
  timeout: 120_000,
}, async () => {
  const secrets = tempFolder();
  const { key, cert } = makeCertificate(secrets, ["127.0.0.1"]);
  const seen: (string | undefined)[] = [];
  const registry = createServer({ key: readFileSync(key), cert: readFileSync(cert) }, (request, response) => {
    seen.push(request.headers.authorization);
    response.writeHead(404).end();
  });
  registry.listen(0, "127.0.0.1");
  await once(registry, "listening");
  const place = `127.0.0.1:${(registry.address() as AddressInfo).port}/`;
  const source = tempFolder();
  for (const name of ["package.json", "package-lock.json", ".npmrc"]) cpSync(join(ROOT, name), join(source, name));
  const install = buildSteps(secrets).find(({ rest }) => rest.includes("npm ci"))!.rest;
  const home = tempFolder();
  const { PATH } = process.env;
  // The configuration of this machine does not count: its cafile would replace all other authorities.
  const config = { npm_config_globalconfig: join(home, "none"), npm_config_fetch_retries: "0" };
  const env = { PATH, HOME: home, REGISTRY: `https://${place}`, ...config };
  const npm = () => finish(spawn("sh", ["-c", install], { cwd: source, env, stdio: ["ignore", "pipe", "pipe"] }));
  try {
    const foreign = await npm();
    assert.match(foreign.stderr, /self-signed certificate|DEPTH_ZERO_SELF_SIGNED_CERT/);
    assert.deepEqual(seen, []);
    cpSync(cert, join(secrets, "ca"));
    assert.match((await npm()).stderr, /E404/);
    assert.deepEqual([...new Set(seen.splice(0))], [undefined]);
    writeFileSync(join(secrets, "npmrc"), `//${place}:_authToken=s3cret\n`);
    assert.match((await npm()).stderr, /E404/);
    assert.deepEqual([...new Set(seen)], ["Bearer s3cret"]);
  } finally {
    registry.close();
  }
});

test("make image passes images, registry and secrets to the build", { skip: programMissing("make") ?? false }, () => {
  const make = (...args: string[]) => run("make", ["-n", "image", "IMAGE=i", ...args], { cwd: ROOT });
  const given = ["BASE=b", "BUILD=c", "REGISTRY=https://npm.example/", "NPMRC=n", "CA=a", "ARGS=--network=host"];
  const all = make(...given);
  for (const part of [
    ...["--build-arg BASE=b ", "--build-arg BUILD=c ", "--build-arg REGISTRY=https://npm.example/ "],
    ...["--secret id=npmrc,src=n ", "--secret id=ca,src=a ", " --network=host -t i ."],
  ]) {
    assert.ok(all.includes(part), `${part} in ${all}`);
  }
  const none = make();
  assert.doesNotMatch(none, /--secret|\b(REGISTRY|BUILD|BASE)=/);
  // BUILDPLATFORM exists without a declaration: https://docs.docker.com/reference/dockerfile/
  const names = ["BUILDPLATFORM", ...[...dockerfile.matchAll(/^ARG (\w+)=/gm)].map(([, name]) => name)];
  for (const [, name] of all.matchAll(/--build-arg (\w+)=/g)) assert.ok(names.includes(name), name);
  for (const [, id] of all.matchAll(/--secret id=(\w+)/g))
    assert.match(dockerfile, new RegExp(`type=secret,id=${id} `));
});

test("the Dockerfile copies and installs all that the bundle needs", { timeout: 180_000 }, () => {
  const source = join(folder, "src");
  mkdirSync(source);
  for (const { kind, rest } of buildSteps("/nonexistent")) {
    if (kind === "RUN") {
      const PATH = `${join(process.execPath, "..")}:${process.env.PATH}`;
      run("sh", ["-c", rest], { cwd: source, env: { ...process.env, PATH, npm_config_prefer_offline: "true" } });
      continue;
    }
    const names = rest.split(" ");
    const to = names.pop()!;
    for (const name of names) {
      cpSync(join(ROOT, name), join(source, to === "./" ? name : to), { recursive: true });
    }
  }
  for (const file of readdirSync(join(ROOT, "dist"))) {
    assert.ok(readFileSync(join(source, "dist", file)).equals(readFileSync(join(ROOT, "dist", file))), file);
  }
});

const skip = programMissing("runc") ?? namespaceMissing() ?? false;

test("a tunnel through the image, with runc on a read-only root", {
  skip,
  timeout: 120_000,
}, async () => {
  process.env.OUTRIDER_IMAGE_LAYOUT = layout;
  await runInNamespace(new URL("tunnel.inside.ts", import.meta.url));
});
