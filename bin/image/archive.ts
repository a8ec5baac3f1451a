import { createHash } from "node:crypto";
import { closeSync, mkdirSync, openSync, writeSync } from "node:fs";
import { dirname, join } from "node:path";
import { parseArgs } from "node:util";
import { ENTRY, makeBundle, packageJson, ROOT } from "./bundle.ts";
import { appLayer, baseLayer, USER } from "./rootfs.ts";
import { type TarEntry, tar, tree } from "./tar.ts";

/**
 * `make image-archive`: the image as an OCI archive, without an engine and without a registry, for clusters that have
 * neither and for tests. Equal input gives equal bytes. Load it with `ctr -n k8s.io images import`, `docker load`,
 * `kind load image-archive` or `skopeo copy oci-archive:…`.
 */

const HELP = `Usage: archive.ts [--out FILE] [--name NAME:TAG] [--node FILE]

  --out FILE       where the archive goes (default: outrider-VERSION.tar)
  --name NAME:TAG  what the image is called (default: outrider:VERSION)
  --node FILE      the Node.js >= 24 that goes into it (default: the one that runs this)`;

// https://github.com/opencontainers/image-spec/blob/v1.1.1/media-types.md
const MEDIA = {
  manifest: "application/vnd.oci.image.manifest.v1+json",
  config: "application/vnd.oci.image.config.v1+json",
  layer: "application/vnd.oci.image.layer.v1.tar",
} as const;

/** Names of the specification, which are Go's, for Node's. */
const ARCHITECTURE: Readonly<Record<string, string>> = {
  x64: "amd64",
  arm64: "arm64",
  ppc64: "ppc64le",
  s390x: "s390x",
};

/** A piece of content under its digest. */
export interface Blob {
  mediaType: string;
  digest: string;
  size: number;
  content: Buffer;
}

function blob(mediaType: string, content: Buffer): Blob {
  const digest = `sha256:${createHash("sha256").update(content).digest("hex")}`;
  return { mediaType, digest, size: content.length, content };
}

const json = (value: unknown) => Buffer.from(JSON.stringify(value));
export const layerOf = (entries: readonly TarEntry[]): Blob => blob(MEDIA.layer, Buffer.concat([...tar(entries)]));
const descriptor = ({ mediaType, digest, size }: Blob) => ({ mediaType, digest, size });

/** Configuration of the image. The Dockerfile has the same one; a test compares them. */
export function imageConfig() {
  const { name, description, license, version } = packageJson();
  return {
    User: USER,
    ExposedPorts: { "4750/tcp": {}, "9750/tcp": {} },
    Env: ["PATH=/nodejs/bin:/usr/local/bin:/usr/bin:/bin"],
    Entrypoint: ["node", "--disable-warning=ExperimentalWarning", "--max-semi-space-size=8", `/app/${ENTRY}`],
    Cmd: ["proxy"],
    WorkingDir: "/app",
    Labels: {
      "org.opencontainers.image.title": name,
      "org.opencontainers.image.description": description,
      "org.opencontainers.image.licenses": license,
      "org.opencontainers.image.version": version,
    },
  };
}

/** The files of the archive, and the digest of the manifest in it. */
export function imageOf(
  name: string,
  layers: readonly Blob[],
  of: object = imageConfig(),
): { entries: TarEntry[]; digest: string } {
  const architecture = ARCHITECTURE[process.arch];
  if (architecture === undefined) throw new Error(`no image for the processor ${process.arch}`);
  const config = blob(
    MEDIA.config,
    json({
      architecture,
      os: "linux",
      config: of,
      rootfs: { type: "layers", diff_ids: layers.map(({ digest }) => digest) },
      history: layers.map(() => ({ created_by: "make image-archive" })),
    }),
  );
  const manifest = blob(
    MEDIA.manifest,
    json({ schemaVersion: 2, mediaType: MEDIA.manifest, config: descriptor(config), layers: layers.map(descriptor) }),
  );
  const annotations = {
    "io.containerd.image.name": name,
    "org.opencontainers.image.ref.name": name.slice(name.lastIndexOf(":") + 1),
  };
  const path = ({ digest }: Blob) => `blobs/${digest.replace(":", "/")}`;
  const file = (path: string, content: Buffer) => ({ path, mode: 0o644, content });
  // manifest.json is what `docker load` reads where it does not know OCI archives.
  const docker = [{ Config: path(config), RepoTags: [name], Layers: layers.map(path) }];
  const entries = tree([
    file("oci-layout", json({ imageLayoutVersion: "1.0.0" })),
    file("index.json", json({ schemaVersion: 2, manifests: [{ ...descriptor(manifest), annotations }] })),
    file("manifest.json", json(docker)),
    ...[config, manifest, ...layers].map((one) => file(path(one), one.content)),
  ]);
  return { entries, digest: manifest.digest };
}

/** Short names get the registry that containerd and Docker assume: they would not find the image under another. */
export function fullName(name: string): string {
  const [first, ...rest] = name.split("/");
  if (rest.length === 0) return `docker.io/library/${name}`;
  return /[.:]|^localhost$/.test(first!) ? name : `docker.io/${name}`;
}

/** Bundles, and writes the archive; the digest of its manifest. */
export async function writeArchive(out: string, name: string, node: string): Promise<string> {
  await makeBundle();
  const { entries, digest } = imageOf(fullName(name), [layerOf(baseLayer(node)), layerOf(appLayer())]);
  mkdirSync(dirname(out), { recursive: true });
  const file = openSync(out, "w");
  try {
    for (const piece of tar(entries)) for (let at = 0; at < piece.length; ) at += writeSync(file, piece, at);
  } finally {
    closeSync(file);
  }
  return digest;
}

if (import.meta.main) {
  const options = {
    out: { type: "string" },
    name: { type: "string" },
    node: { type: "string" },
    help: { type: "boolean" },
  } as const;
  const { values } = parseArgs({ options });
  if (values.help) console.log(HELP);
  else {
    const { version } = packageJson();
    const out = values.out ?? join(ROOT, `outrider-${version}.tar`);
    const name = values.name ?? `outrider:${version}`;
    const digest = await writeArchive(out, name, values.node ?? process.execPath);
    console.log(`${out}: ${fullName(name)} ${digest}`);
  }
}
