import { readFileSync } from "node:fs";
import { archiveOf, blobOf, byDigest, MEDIA, REF_NAME } from "../image/oci.ts";
import type { TarEntry } from "../image/tar.ts";
import { HUB_TAG } from "./files.ts";

const FILE = "artifacthub-repo.yml";
const SOURCE = new URL(`../../charts/${FILE}`, import.meta.url);
const UUID = /[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/;

/**
 * The metadata of the chart's repository as an OCI archive, as `oras push` writes it:
 * https://artifacthub.io/docs/topics/repositories/helm-charts/#oci-support. @param id of the repository in Artifact Hub
 */
export function repositoryMetadata(id: string): TarEntry[] {
  if (UUID.exec(id)?.[0] !== id) throw new Error(`--artifacthub-id: "${id}" is no UUID; copy it from Artifact Hub`);
  const text = readFileSync(SOURCE, "utf8").replace(UUID, id);
  const config = blobOf("application/vnd.cncf.artifacthub.config.v1+yaml", "{}");
  const layer = blobOf("application/vnd.cncf.artifacthub.repository-metadata.layer.v1.yaml", text);
  const layers = [{ ...layer.descriptor, annotations: { "org.opencontainers.image.title": FILE } }];
  const content = { schemaVersion: 2, mediaType: MEDIA.manifest, config: config.descriptor, layers };
  const manifest = blobOf(MEDIA.manifest, JSON.stringify(content));
  return archiveOf(manifest.descriptor, { [REF_NAME]: HUB_TAG }, byDigest([config, layer, manifest]));
}
