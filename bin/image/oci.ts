import { createHash } from "node:crypto";
import { type TarEntry, tree } from "./tar.ts";

/**
 * OCI archives with one top manifest (https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md). It imports
 * no package.
 */

/** Media types of the specification (https://github.com/opencontainers/image-spec/blob/v1.1.1/media-types.md). */
export const MEDIA = {
  index: "application/vnd.oci.image.index.v1+json",
  manifest: "application/vnd.oci.image.manifest.v1+json",
  config: "application/vnd.oci.image.config.v1+json",
  layer: "application/vnd.oci.image.layer.v1.tar",
} as const;

/** Annotation of an entry in index.json: its tag. */
export const REF_NAME = "org.opencontainers.image.ref.name";

/** Reference to a blob. */
export interface Descriptor {
  mediaType: string;
  digest: string;
  size: number;
  platform?: { architecture: string; os: string };
  annotations?: Record<string, string>;
}

/** A blob with its descriptor. */
export interface Blob {
  descriptor: Descriptor;
  content: Buffer;
}

/** SHA-256 in hexadecimal digits. */
export const sha256 = (content: Buffer | string): string => createHash("sha256").update(content).digest("hex");

/** Digest of a blob: `sha256:…`. */
export const digestOf = (content: Buffer | string): string => `sha256:${sha256(content)}`;

/** A blob of this content. */
export function blobOf(mediaType: string, content: Buffer | string): Blob {
  const bytes = typeof content === "string" ? Buffer.from(content) : content;
  return { descriptor: { mediaType, digest: digestOf(bytes), size: bytes.length }, content: bytes };
}

/** Contents by digest. */
export const byDigest = (blobs: readonly Blob[]): Map<string, Buffer> =>
  new Map(blobs.map(({ descriptor, content }) => [descriptor.digest, content]));

/** Path of a blob in an archive. */
export const blobPath = (digest: string): string => `blobs/${digest.replace(":", "/")}`;

/** A file of an archive. */
export type FileEntry = TarEntry & { content: Buffer };

/** Entry of a file. */
export const fileOf = (path: string, content: Buffer): FileEntry => ({ path, mode: 0o644, content });

/**
 * Entries of an archive. `top`: the manifest or index that index.json names, with these annotations. `more`: files beside
 * those of the specification.
 */
export function archiveOf(
  top: Descriptor,
  annotations: Readonly<Record<string, string>>,
  blobs: ReadonlyMap<string, Buffer>,
  more: readonly FileEntry[] = [],
): TarEntry[] {
  const json = (value: unknown) => Buffer.from(JSON.stringify(value));
  return tree([
    fileOf("oci-layout", json({ imageLayoutVersion: "1.0.0" })),
    fileOf("index.json", json({ schemaVersion: 2, manifests: [{ ...top, annotations }] })),
    ...more,
    ...[...blobs].map(([digest, content]) => fileOf(blobPath(digest), content)),
  ]);
}
