import { spawnSync } from "node:child_process";
import { appendFileSync, copyFileSync, existsSync, mkdtempSync, readFileSync, rmSync, utimesSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { parseArgs } from "node:util";
import { digestOf } from "../image/oci.ts";
import { chartFile, HUB_TAG, imageFile, METADATA, readManifest, verifyFiles } from "./files.ts";
import { targetOf } from "./target.ts";

/**
 * Pushes the image and the chart that assemble.ts made. It imports only modules of Node.js: no code of a package runs where the
 * credentials of the registry are. A version that exists with other content is never overwritten.
 */

const HELP = `Usage: publish.ts --checksums SHA256 --registry HOST --owner PATH [--dir FOLDER] [--signatures FOLDER]

  --checksums SHA256  what assemble.ts printed
  --registry, --owner  as for assemble.ts
  --dir FOLDER        folder of the release (default: release)
  --signatures FOLDER  output of sign.ts; may be absent (default: signatures)

Needs skopeo and helm, logged in to the registry. HELM is the program Helm (default: helm). Prints the image and the chart with
their digests, and writes them to $GITHUB_OUTPUT as image, image_digest, chart and chart_digest.`;

const CHART_LAYER = "application/vnd.cncf.helm.chart.content.v1.tar+gzip";
/** A registry that does not answer must not hold the job. */
const LIMIT_MS = 600_000;
/** Bytes of a manifest: registries accept 4 MiB. */
const MAX_OUTPUT = 8 << 20;

/** Runs a program; its output. @throws Error with the last line of its errors */
function run(program: string, args: readonly string[]): string {
  const { status, stdout, stderr, error } = spawnSync(program, args, {
    encoding: "utf8",
    timeout: LIMIT_MS,
    maxBuffer: MAX_OUTPUT,
  });
  if (status === 0) return stdout;
  const reason = error?.message ?? stderr.trim().split("\n").at(-1) ?? `exit status ${status}`;
  throw new Error(`${program} ${args[0]}: ${reason}`);
}

/** Manifest in the registry, byte by byte; undefined: the registry does not have this tag. */
function stored(reference: string, isLoopback: boolean): string | undefined {
  try {
    return run("skopeo", ["inspect", "--raw", ...(isLoopback ? ["--tls-verify=false"] : []), `docker://${reference}`]);
  } catch (error) {
    if (/manifest unknown|name unknown|not found/i.test((error as Error).message)) return undefined;
    throw error;
  }
}

const otherContent = (reference: string, found: string, wanted: string): Error =>
  new Error(`${reference} exists with other content (${found}, not ${wanted}); release a new version`);

/** Pushes an OCI archive to a tag. */
function skopeoCopy(archive: string, reference: string, isLoopback: boolean): void {
  const flags = ["--all", "--preserve-digests", ...(isLoopback ? ["--dest-tls-verify=false"] : [])];
  run("skopeo", ["copy", ...flags, `oci-archive:${archive}`, `docker://${reference}`]);
}

/** Pushes the image index with its images, unless the registry has it. */
function pushImage(reference: string, archive: string, digest: string, isLoopback: boolean): void {
  const found = stored(reference, isLoopback);
  if (found !== undefined) {
    if (digestOf(found) !== digest) throw otherContent(reference, digestOf(found), digest);
    return;
  }
  skopeoCopy(archive, reference, isLoopback);
  const pushed = digestOf(stored(reference, isLoopback) ?? "");
  if (pushed !== digest) throw new Error(`${reference}: the registry has ${pushed} after the push, not ${digest}`);
}

/**
 * `helm push` of a package, with its provenance file if there is one. Helm writes the time of the file into the manifest: with
 * the day of the release, the digest is the same in every run.
 */
function helmPush(file: string, provenance: string, date: string, repository: string, isLoopback: boolean): void {
  const folder = mkdtempSync(join(tmpdir(), "outrider-push-"));
  try {
    const copy = join(folder, basename(file));
    copyFileSync(file, copy);
    if (existsSync(provenance)) copyFileSync(provenance, `${copy}.prov`);
    utimesSync(copy, Date.parse(date) / 1000, Date.parse(date) / 1000);
    run(process.env.HELM || "helm", ["push", copy, `oci://${repository}`, ...(isLoopback ? ["--plain-http"] : [])]);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** Digest of the package in the manifest of a chart; undefined: the manifest is of something else. */
const packageIn = (manifest: string): string | undefined =>
  JSON.parse(manifest).layers?.find(({ mediaType }: { mediaType: string }) => mediaType === CHART_LAYER)?.digest;

/** Fails if the registry has another package under this name. */
function checkChart(reference: string, manifest: string, wanted: string): void {
  const found = packageIn(manifest);
  if (found !== wanted) throw otherContent(reference, found ?? "no chart", wanted);
}

function publish(dir: string, signatures: string, checksums: string, registry: string, owner: string) {
  verifyFiles(dir, checksums);
  const { version, date, image, imageDigest, charts } = readManifest(dir);
  const target = targetOf(registry, owner);
  if (image !== target.image || charts !== target.charts) {
    throw new Error(
      `--registry, --owner: ${target.image} is not ${image}, which the chart names; build the release for it`,
    );
  }
  const { isLoopback } = target;
  const chart = `${charts}/outrider`;
  const file = join(dir, chartFile(version));
  const wanted = digestOf(readFileSync(file));
  const before = stored(`${chart}:${version}`, isLoopback);
  // Before the first push, so that a conflict changes nothing.
  if (before !== undefined) checkChart(`${chart}:${version}`, before, wanted);
  pushImage(`${image}:${version}`, join(dir, imageFile(version)), imageDigest, isLoopback);
  if (before === undefined) helmPush(file, join(signatures, `${chartFile(version)}.prov`), date, charts, isLoopback);
  const manifest = before ?? stored(`${chart}:${version}`, isLoopback) ?? "{}";
  checkChart(`${chart}:${version}`, manifest, wanted);
  // A tag that moves, without a version.
  const metadata = join(dir, METADATA);
  if (existsSync(metadata)) skopeoCopy(metadata, `${chart}:${HUB_TAG}`, isLoopback);
  return { image, image_digest: imageDigest, chart, chart_digest: digestOf(manifest) };
}

if (import.meta.main) {
  const text = { type: "string", default: "" } as const;
  const options = {
    ...{ checksums: text, registry: text, owner: text },
    ...{
      dir: { ...text, default: "release" },
      signatures: { ...text, default: "signatures" },
      help: { type: "boolean" as const },
    },
  };
  try {
    const { help, dir, signatures, checksums, registry, owner } = parseArgs({ options }).values;
    if (help) console.log(HELP);
    else {
      const pushed = publish(dir, signatures, checksums, registry, owner);
      const lines = Object.entries(pushed).map(([key, value]) => `${key}=${value}\n`);
      process.stdout.write(lines.join(""));
      if (process.env.GITHUB_OUTPUT) appendFileSync(process.env.GITHUB_OUTPUT, lines.join(""));
    }
  } catch (error) {
    console.error((error as Error).message);
    process.exitCode = 2;
  }
}
