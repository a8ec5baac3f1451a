import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { parseArgs } from "node:util";
import { type Part, startProgress } from "../../proxy/cli/progress.ts";
import { type Built, provenanceOf, sbomOf, sourceOf } from "./attest.ts";
import { ENTRY, makeBundle, packageJson, ROOT } from "./bundle.ts";
import { labelsOf, type Source, timeOf } from "./labels.ts";
import { archiveOf, type Blob, blobOf, blobPath, byDigest, fileOf, MEDIA, REF_NAME } from "./oci.ts";
import { appLayer, baseLayer, machineFiles, USER } from "./rootfs.ts";
import { type TarEntry, tar, writeTar } from "./tar.ts";

/**
 * `make image-archive`: writes the image as an OCI archive, without a container engine and without a registry, for
 * tests and for clusters without them. Equal input gives equal bytes. Load it with `ctr -n k8s.io images import`,
 * `docker load`, `kind load image-archive` or `skopeo copy oci-archive:…`.
 */

const HELP = `Usage: archive.ts [--out FILE] [--name NAME:TAG] [--node FILE] [--repository URL] [--revision COMMIT] [--attest]

  --out FILE       where the archive goes (default: outrider-VERSION.tar)
  --name NAME:TAG  what the image is called (default: outrider:VERSION)
  --node FILE      the Node.js >= 24 that goes into it (default: the one that runs this)
  --repository URL address of the source, for the labels
  --revision COMMIT  the source, for the labels
  --attest         write FILE.provenance.json and FILE.sbom.json: in-toto statements (SLSA provenance, CycloneDX) to sign
  --builder URI    the build platform, for the provenance (default: URL#self-built)

SOURCE_DATE_EPOCH sets the time of the image; without it, the image has none.`;

/** Names of architectures in the specification (those of Go), by Node's names. */
const ARCHITECTURE: Readonly<Record<string, string>> = {
  x64: "amd64",
  arm64: "arm64",
  ppc64: "ppc64le",
  s390x: "s390x",
};

/** A layer of these entries, not compressed. */
export const layerOf = (entries: readonly TarEntry[]): Blob => blobOf(MEDIA.layer, Buffer.concat([...tar(entries)]));

const SECOND_NS = 1e9;

/** Configuration of the image. The Dockerfile has the same one; a test compares them. */
export function imageConfig(source: Source = {}) {
  return {
    User: USER,
    ExposedPorts: { "4750/tcp": {}, "9750/tcp": {} },
    Env: ["PATH=/nodejs/bin:/usr/local/bin:/usr/bin:/bin"],
    Entrypoint: ["node", "--disable-warning=ExperimentalWarning", "--max-semi-space-size=8", `/app/${ENTRY}`],
    Cmd: ["proxy"],
    WorkingDir: "/app",
    Labels: labelsOf(source),
    // A field of Docker (https://github.com/moby/docker-image-spec), which others ignore.
    Healthcheck: {
      Test: ["CMD", "node", `/app/${ENTRY}`, "health"],
      Interval: 30 * SECOND_NS,
      Timeout: 5 * SECOND_NS,
      StartPeriod: 10 * SECOND_NS,
    },
  };
}

/** The files of the archive, and the digest of its manifest. */
export function imageOf(
  name: string,
  layers: readonly Blob[],
  of: object = imageConfig(),
  created?: string,
): { entries: TarEntry[]; digest: string } {
  const architecture = ARCHITECTURE[process.arch];
  if (architecture === undefined) throw new Error(`no image for the processor ${process.arch}`);
  const config = blobOf(
    MEDIA.config,
    JSON.stringify({
      ...(created === undefined ? {} : { created }),
      architecture,
      os: "linux",
      config: of,
      rootfs: { type: "layers", diff_ids: layers.map(({ descriptor }) => descriptor.digest) },
      history: layers.map(() => ({ created_by: "make image-archive" })),
    }),
  );
  const manifest = blobOf(
    MEDIA.manifest,
    JSON.stringify({
      ...{ schemaVersion: 2, mediaType: MEDIA.manifest, config: config.descriptor },
      layers: layers.map(({ descriptor }) => descriptor),
    }),
  );
  const annotations = { "io.containerd.image.name": name, [REF_NAME]: name.slice(name.lastIndexOf(":") + 1) };
  const path = ({ descriptor }: Blob) => blobPath(descriptor.digest);
  // `docker load` reads manifest.json if it does not support OCI archives.
  const docker = [{ Config: path(config), RepoTags: [name], Layers: layers.map(path) }];
  const more = [fileOf("manifest.json", Buffer.from(JSON.stringify(docker)))];
  const entries = archiveOf(manifest.descriptor, annotations, byDigest([config, manifest, ...layers]), more);
  return { entries, digest: manifest.descriptor.digest };
}

/** Short names get the registry that containerd and Docker assume. Otherwise these would not find the image. */
export function fullName(name: string): string {
  const [first, ...rest] = name.split("/");
  if (rest.length === 0) return `docker.io/library/${name}`;
  return /[.:]|^localhost$/.test(first!) ? name : `docker.io/${name}`;
}

/** Parts of the build with their expected times. */
const PARTS = [
  { name: "bundle the code", seconds: 3 },
  { name: "build the layers", seconds: 1 },
  { name: "write the archive", seconds: 1 },
] as const satisfies readonly Part[];

/**
 * Builds the bundle and writes the archive; returns the digest of the manifest.
 * @param begin gets the name of each part
 */
export async function writeArchive(
  out: string,
  name: string,
  node: string,
  source: Source = {},
  begin: (part: (typeof PARTS)[number]["name"]) => void = () => {},
): Promise<string> {
  begin("bundle the code");
  await makeBundle();
  begin("build the layers");
  const layers = [layerOf(baseLayer(machineFiles(node))), layerOf(appLayer())];
  const { entries, digest } = imageOf(fullName(name), layers, imageConfig(source), source.created);
  begin("write the archive");
  mkdirSync(dirname(out), { recursive: true });
  writeTar(out, entries);
  return digest;
}

/** Writes the statements about an archive beside it; returns their files. */
function attest(out: string, built: Built): string[] {
  const statements = { provenance: provenanceOf(built), sbom: sbomOf(built) };
  return Object.entries(statements).map(([kind, statement]) => {
    const file = `${out.replace(/\.tar$/, "")}.${kind}.json`;
    writeFileSync(file, `${JSON.stringify(statement, null, 2)}\n`);
    return file;
  });
}

async function main(): Promise<void> {
  const text = { type: "string" } as const;
  const flag = { type: "boolean" } as const;
  const { values } = parseArgs({
    options: {
      ...{ out: text, name: text, node: text, repository: text, revision: text, builder: text },
      ...{ attest: flag, help: flag },
    },
  });
  if (values.help) return console.log(HELP);
  const { version } = packageJson();
  const { out = join(ROOT, `outrider-${version}.tar`), name = `outrider:${version}`, node = process.execPath } = values;
  const { revision, repository, builder } = values;
  const source = { revision, repository, created: timeOf(process.env.SOURCE_DATE_EPOCH) };
  // Before the build, which takes seconds.
  if (values.attest) sourceOf(source);
  const progress = startProgress(PARTS);
  const digest = await writeArchive(out, name, node, source, progress.show).finally(progress.end);
  console.log(`${out}: ${fullName(name)} ${digest}`);
  if (!values.attest) return;
  const built = {
    name: fullName(name).replace(/:[^:/]*$/, ""),
    digest,
    source,
    builder,
    node,
    files: machineFiles(node),
  };
  for (const file of attest(out, built)) console.log(file);
}

if (import.meta.main) {
  await main().catch((error: Error) => {
    console.error(`archive.ts: ${error.message}`);
    process.exitCode = 2;
  });
}
