import { execFileSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { archiveOf, blobOf, type Descriptor, digestOf, MEDIA, REF_NAME } from "../image/oci.ts";
import type { TarEntry } from "../image/tar.ts";

/**
 * One image for several architectures: an image index of the manifests of OCI archives, which `make image-archive` wrote on
 * a machine of each architecture. Manifests keep their bytes and thus their digests.
 */

/** Blobs of an archive by digest, and its top descriptors. @throws Error if a blob does not have its digest */
function readArchive(file: string): { blobs: Map<string, Buffer>; manifests: Descriptor[] } {
  const folder = mkdtempSync(join(tmpdir(), "outrider-archive-"));
  try {
    execFileSync("tar", ["-xf", file, "-C", folder], { stdio: ["ignore", "ignore", "pipe"] });
    const blobs = new Map<string, Buffer>();
    for (const name of readdirSync(join(folder, "blobs/sha256"))) {
      const content = readFileSync(join(folder, "blobs/sha256", name));
      if (digestOf(content) !== `sha256:${name}`)
        throw new Error(`${file}: blob ${name} has another digest; build it again`);
      blobs.set(`sha256:${name}`, content);
    }
    return { blobs, manifests: JSON.parse(readFileSync(join(folder, "index.json"), "utf8")).manifests };
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** Descriptors of images and attestations, without the indexes around them, and without names of the archive. */
function flat({ blobs, manifests }: ReturnType<typeof readArchive>, file: string): Descriptor[] {
  return manifests.flatMap((one) => {
    const content = blobs.get(one.digest);
    if (content === undefined) throw new Error(`${file}: index.json names ${one.digest}, which the archive lacks`);
    const parsed = JSON.parse(content.toString());
    if (one.mediaType === MEDIA.index) return flat({ blobs, manifests: parsed.manifests }, file);
    if (one.mediaType !== MEDIA.manifest) throw new Error(`${file}: unknown media type ${one.mediaType}`);
    const { mediaType, digest, size } = one;
    const kept = Object.entries(one.annotations ?? {}).filter(([key]) => key.startsWith("vnd."));
    const annotations = kept.length > 0 ? { annotations: Object.fromEntries(kept) } : {};
    if (one.platform !== undefined) return [{ mediaType, digest, size, platform: one.platform, ...annotations }];
    if (parsed.config.mediaType !== MEDIA.config) throw new Error(`${file}: ${digest} has no platform`);
    const { architecture, os } = JSON.parse(blobs.get(parsed.config.digest)!.toString());
    return [{ mediaType, digest, size, platform: { architecture, os }, ...annotations }];
  });
}

/** An OCI archive with an image index. */
export interface ImageIndex {
  entries: TarEntry[];
  /** Digest of the index. */
  digest: string;
  /** Platforms of its images, such as `linux/amd64`. */
  platforms: string[];
}

/** Makes one archive of several. @param version tag in the archive. @throws Error for wrong archives */
export function combined(files: readonly string[], version: string): ImageIndex {
  if (files.length === 0) throw new Error("--image is missing; give an archive of each architecture");
  const archives = files.map((file) => ({ file, ...readArchive(file) }));
  const manifests = archives.flatMap((archive) => flat(archive, archive.file));
  // Attestations have the platform unknown/unknown.
  const all = manifests.map(({ platform }) => `${platform!.os}/${platform!.architecture}`);
  const platforms = all.filter((one) => one !== "unknown/unknown");
  const twice = platforms.find((one, i) => platforms.indexOf(one) !== i);
  if (twice !== undefined)
    throw new Error(`--image: two archives have an image for ${twice}; give one of each architecture`);
  const index = blobOf(MEDIA.index, JSON.stringify({ schemaVersion: 2, mediaType: MEDIA.index, manifests }));
  const { digest } = index.descriptor;
  const blobs = new Map([...archives.flatMap((archive) => [...archive.blobs]), [digest, index.content]]);
  return { entries: archiveOf(index.descriptor, { [REF_NAME]: version }, blobs), digest, platforms };
}
