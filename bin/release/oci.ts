import { createHash } from "node:crypto";
import { type TarEntry, tree } from "../image/tar.ts";

/** OCI archives with one top manifest (https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md). */

export const INDEX = "application/vnd.oci.image.index.v1+json";
export const MANIFEST = "application/vnd.oci.image.manifest.v1+json";

/** Reference to a blob. */
export interface Descriptor {
  mediaType: string;
  digest: string;
  size: number;
  platform?: { architecture: string; os: string };
  annotations?: Record<string, string>;
}

export const digestOf = (content: Buffer): string => `sha256:${createHash("sha256").update(content).digest("hex")}`;

/** A blob with its descriptor. */
export const blobOf = (mediaType: string, content: Buffer | string): { descriptor: Descriptor; content: Buffer } => {
  const bytes = Buffer.from(content as string);
  return { descriptor: { mediaType, digest: digestOf(bytes), size: bytes.length }, content: bytes };
};

/** Files of an archive. `top`: the manifest or index that has this tag. */
export function archiveOf(top: Descriptor, tag: string, blobs: ReadonlyMap<string, Buffer>): TarEntry[] {
  const file = (path: string, content: Buffer) => ({ path, mode: 0o644, content });
  const json = (value: unknown) => Buffer.from(JSON.stringify(value));
  const named = { ...top, annotations: { "org.opencontainers.image.ref.name": tag } };
  return tree([
    file("oci-layout", json({ imageLayoutVersion: "1.0.0" })),
    file("index.json", json({ schemaVersion: 2, manifests: [named] })),
    ...[...blobs].map(([digest, content]) => file(`blobs/${digest.replace(":", "/")}`, content)),
  ]);
}
