import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, realpathSync, renameSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { before, test } from "node:test";
import { imageConfig } from "../../bin/image/archive.ts";
import { bundleCode, ROOT } from "../../bin/image/bundle.ts";
import { labelsOf } from "../../bin/image/labels.ts";
import { baseLayer, librariesOf, machineFiles } from "../../bin/image/rootfs.ts";
import { type TarEntry, tar, tree } from "../../bin/image/tar.ts";
import { namespaceMissing, runInNamespace } from "../harness/namespace.ts";
import { programMissing } from "../harness/packages.ts";
import { tempFolder } from "../harness/proxy.ts";

/**
 * `make image` with buildah, in a storage of its own. Base and build image have the programs of this machine, since no test
 * downloads images. npm installs the packages from the cache of this machine.
 */

/** The base is of another architecture, but has the programs of this machine: no step of the build runs them. */
const OTHER = `linux/${process.arch === "arm64" ? "amd64" : "arm64"}`;
const BASE = "localhost/outrider-test-base:1";
const BUILD = "localhost/outrider-test-build:1";
const IMAGE = "localhost/outrider-test:1";
const SOURCE = { repository: "https://git.example/outrider", revision: "0123456789abcdef0123456789abcdef01234567" };
const BUILD_MS = 300_000;

const folder = tempFolder();
const missing =
  programMissing("buildah") ?? programMissing("make") ?? programMissing("runc") ?? namespaceMissing() ?? false;
const layout = join(folder, "layout");

const storage = join(folder, "storage.conf");
writeFileSync(
  storage,
  `[storage]\ndriver = "vfs"\ngraphroot = "${join(folder, "graph")}"\nrunroot = "${join(folder, "run")}"\n`,
);
const env = {
  ...{ PATH: process.env.PATH, HOME: process.env.HOME },
  ...{ CONTAINERS_STORAGE_CONF: storage, BUILDAH_ISOLATION: "chroot" },
  // An engine of Docker would have precedence.
  DOCKER_HOST: "unix:///nonexistent",
};

function tryRun(command: string, args: readonly string[], cwd = ROOT) {
  return spawnSync(command, args, { encoding: "utf8", cwd, env, timeout: BUILD_MS, maxBuffer: 64 * 1024 * 1024 });
}

function run(command: string, args: readonly string[], cwd = ROOT): string {
  const { status, stdout, stderr, error } = tryRun(command, args, cwd);
  assert.equal(status, 0, `${command} ${args.join(" ")}: ${error?.message ?? stderr}`);
  return stdout;
}

/** Makes an image from the files that `fill` writes into a folder. */
function addImage(name: string, lines: readonly string[], fill: (context: string) => void, args: string[] = []): void {
  const context = tempFolder();
  fill(context);
  writeFileSync(join(context, "Containerfile"), ["FROM scratch", ...lines, ""].join("\n"));
  run("buildah", ["build", ...args, "--tag", name, context]);
}

const writeTar = (file: string, entries: readonly TarEntry[]) => writeFileSync(file, Buffer.concat([...tar(entries)]));

/** Shell and `env`, with their libraries: npm and the Dockerfile need them. */
function shellFiles(): (TarEntry & { content: Buffer })[] {
  const programs = { "bin/sh": "/bin/sh", "usr/bin/env": "/usr/bin/env" };
  const files = new Map(Object.entries(programs));
  for (const program of Object.values(programs))
    for (const path of librariesOf(program)) files.set(path.slice(1), path);
  return [...files].map(([path, from]) => ({ path, mode: 0o755, content: readFileSync(from) }));
}

/** Runs `make image`. npm compacts the index of its cache when it reads it, so the volume is writable. */
function makeImage() {
  const npmrc = join(folder, "npmrc");
  writeFileSync(npmrc, "cache=/npm-cache\noffline=true\naudit=false\nfund=false\nupdate-notifier=false\n");
  const [cache, registry] = ["cache", "registry"].map((name) => run("npm", ["config", "get", name]).trim());
  return tryRun("make", [
    ...["image", `IMAGE=${IMAGE}`, `BASE=${BASE}`, `BUILD=${BUILD}`, `NPMRC=${npmrc}`, `REGISTRY=${registry}`],
    ...[`REPOSITORY_URL=${SOURCE.repository}`, `REVISION=${SOURCE.revision}`],
    `ARGS=--pull-never --format docker --platform=${OTHER} --volume ${cache}:/npm-cache`,
  ]);
}

/** Fills the cache of this machine with the packages of package-lock.json. */
function fillCache(): void {
  const source = tempFolder();
  for (const name of ["package.json", "package-lock.json", ".npmrc"]) {
    writeFileSync(join(source, name), readFileSync(join(ROOT, name)));
  }
  run("npm", ["ci", "--ignore-scripts", "--prefer-offline"], source);
}

/** Writes the image as an OCI layout. Its manifest and configuration keep the format of Docker, with the health check. */
function exportImage(): void {
  const blobs = join(layout, "blobs/sha256");
  mkdirSync(dirname(blobs), { recursive: true });
  run("buildah", ["push", "--format", "v2s2", "--quiet", "--disable-compression", IMAGE, `dir:${blobs}`]);
  const digest = run("sha256sum", [join(blobs, "manifest.json")]).split(" ")[0]!;
  renameSync(join(blobs, "manifest.json"), join(blobs, digest));
  writeFileSync(join(layout, "index.json"), JSON.stringify({ manifests: [{ digest: `sha256:${digest}` }] }));
}

/** Files of the layers, from the base. */
function layers(): string[] {
  const index = JSON.parse(readFileSync(join(layout, "index.json"), "utf8"));
  const blob = (digest: string) => join(layout, "blobs", digest.replace(":", "/"));
  const manifest = JSON.parse(readFileSync(blob(index.manifests[0].digest), "utf8"));
  return manifest.layers.map(({ digest }: { digest: string }) => blob(digest));
}

before(
  () => {
    if (missing) return;
    const base = baseLayer(machineFiles(process.execPath));
    addImage(BASE, ["ADD base.tar /"], (context) => writeTar(join(context, "base.tar"), base), [`--platform=${OTHER}`]);
    const npm = dirname(dirname(realpathSync(run("sh", ["-c", "command -v npm"]).trim())));
    const start = {
      path: "bin/npm",
      mode: 0o755,
      content: Buffer.from('#!/bin/sh\nexec node /npm/bin/npm-cli.js "$@"\n'),
    };
    const lines = ["ADD base.tar shell.tar /", "ADD npm.tar /npm/", "ENV PATH=/nodejs/bin:/usr/bin:/bin"];
    addImage(BUILD, lines, (context) => {
      writeTar(join(context, "base.tar"), base);
      writeTar(join(context, "shell.tar"), tree([...shellFiles(), start]));
      run("tar", ["-C", npm, "-cf", join(context, "npm.tar"), "."]);
    });
    let made = makeImage();
    if (made.status !== 0 && made.stderr.includes("ENOTCACHED")) {
      fillCache();
      made = makeImage();
    }
    assert.equal(made.status, 0, made.error?.message ?? made.stderr.slice(-4000));
    exportImage();
  },
  { timeout: 2 * BUILD_MS },
);

test("make image has the configuration and labels of make image-archive", { skip: missing }, () => {
  const { config } = JSON.parse(run("buildah", ["inspect", "--type", "image", IMAGE])).Docker;
  const { Labels, Healthcheck, Env, ...rest } = imageConfig(SOURCE);
  const { "io.buildah.version": _, ...labels } = config.Labels;
  assert.deepEqual(labels, { ...labelsOf(SOURCE), "org.opencontainers.image.base.name": BASE });
  assert.deepEqual(labels, { ...Labels, "org.opencontainers.image.base.name": BASE });
  assert.deepEqual(config.Env, Env);
  assert.deepEqual(config.Healthcheck, Healthcheck);
  for (const [key, value] of Object.entries(rest)) assert.deepEqual(config[key], value, key);
});

test("make image builds the bundle of this machine for another architecture", { skip: missing }, async () => {
  const { architecture } = JSON.parse(run("buildah", ["inspect", "--type", "image", IMAGE])).Docker;
  assert.equal(`linux/${architecture}`, OTHER);
  await bundleCode(join(folder, "dist"));
  const rootfs = join(folder, "rootfs");
  mkdirSync(rootfs);
  for (const layer of layers()) run("tar", ["-xf", layer, "-C", rootfs]);
  const files = readdirSync(join(folder, "dist"));
  assert.deepEqual(readdirSync(join(rootfs, "app/dist")).sort(), [...files, "LICENSES.txt", "sbom.cdx.json"].sort());
  for (const file of files) {
    const [own, other] = [folder, join(rootfs, "app")].map((at) => readFileSync(join(at, "dist", file), "utf8"));
    assert.equal(other, own, file);
  }
});

test("the layers of make image have no secret and no npm", { skip: missing }, () => {
  const files = layers().flatMap((layer) => run("tar", ["-tf", layer]).split("\n"));
  assert.ok(files.includes("app/dist/outrider.js"));
  assert.deepEqual(
    files.filter((path) => /npm|secret|node_modules|^bin\/|^src\//.test(path)),
    [],
  );
});

test("a tunnel through the image of make image, with runc on a read-only root", {
  skip: missing,
  timeout: 120_000,
}, async () => {
  process.env.OUTRIDER_IMAGE_LAYOUT = layout;
  await runInNamespace(new URL("tunnel.inside.ts", import.meta.url));
});
