import { execFileSync } from "node:child_process";
import { cpSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { archiveOf, blobOf, digestOf, REF_NAME } from "../../bin/image/oci.ts";
import { writeTar } from "../../bin/image/tar.ts";
import { tempFolder } from "../harness/proxy.ts";

const ROOT = new URL("../..", import.meta.url).pathname;
const COPIED = ["bin", "charts", "crds", "docs", "operator", "proxy", "CHANGELOG.md", "LICENSE"];

/** Copy of the sources as the commit of a release has them: the changelog has a section of this version. */
export function releaseSources(version: string, date: string): string {
  const folder = tempFolder();
  for (const name of [...COPIED, "package.json", "package-lock.json", ".npmrc"]) {
    cpSync(join(ROOT, name), join(folder, name), { recursive: true });
  }
  symlinkSync(join(ROOT, "node_modules"), join(folder, "node_modules"));
  const changelog = join(folder, "CHANGELOG.md");
  const heading = `## [Unreleased]\n\n## [${version}] - ${date}`;
  writeFileSync(changelog, readFileSync(changelog, "utf8").replace("## [Unreleased]", heading));
  return folder;
}

/** Writes an archive whose image names another architecture; it has the same files. Returns the digest of its manifest. */
export function otherArchitecture(archive: string, architecture: string, out: string): string {
  const folder = tempFolder();
  execFileSync("tar", ["-xf", archive, "-C", folder]);
  const blobs = join(folder, "blobs/sha256");
  const blob = (digest: string) => readFileSync(join(blobs, digest.replace("sha256:", "")));
  const [top] = JSON.parse(readFileSync(join(folder, "index.json"), "utf8")).manifests;
  const manifest = JSON.parse(blob(top.digest).toString());
  const config = { ...JSON.parse(blob(manifest.config.digest).toString()), architecture };
  const newConfig = blobOf(manifest.config.mediaType, JSON.stringify(config));
  const changed = blobOf(top.mediaType, JSON.stringify({ ...manifest, config: newConfig.descriptor }));
  const layers = readdirSync(blobs).map((name) => readFileSync(join(blobs, name)));
  const all = new Map([...layers, newConfig.content, changed.content].map((content) => [digestOf(content), content]));
  writeTar(out, archiveOf(changed.descriptor, { [REF_NAME]: "test" }, all));
  return changed.descriptor.digest;
}
