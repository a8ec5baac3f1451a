import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { sha256 } from "../image/oci.ts";

/** Files of a release: their names, and their checksums in the format of `sha256sum`. */

/** Facts of a release that publish.ts needs. */
export interface Manifest {
  version: string;
  /** Day of the release, `YYYY-MM-DD`. */
  date: string;
  /** Image without tag. */
  image: string;
  /** Digest of the image index. */
  imageDigest: string;
  /** Where the chart goes, without its name. */
  charts: string;
}

const MANIFEST = "release.json";
/** File with the checksums of all others. */
export const CHECKSUMS = "checksums.txt";
/** Archive with the metadata of Artifact Hub; optional. */
export const METADATA = "artifacthub-repo.tar";
/** Tag under which Artifact Hub expects these metadata, in the repository of the chart. */
export const HUB_TAG = "artifacthub.io";
/** File of the image, an OCI archive with an index. */
export const imageFile = (version: string): string => `outrider-${version}-image.tar`;
/** File of the chart, as `helm package` names it. */
export const chartFile = (version: string): string => `outrider-${version}.tgz`;

/** Reads the facts of a release. @throws Error if its folder has none */
export const readManifest = (folder: string): Manifest => JSON.parse(readFileSync(join(folder, MANIFEST), "utf8"));
/** Writes the facts of a release into its folder. */
export const writeManifest = (folder: string, manifest: Manifest): void =>
  writeFileSync(join(folder, MANIFEST), `${JSON.stringify(manifest, null, 2)}\n`);

const sumOf = (folder: string, name: string): string => sha256(readFileSync(join(folder, name)));

/** Lines of `checksums.txt` for all files of a folder. */
export function checksumsOf(folder: string): string {
  const names = readdirSync(folder).filter((name) => name !== CHECKSUMS);
  return names
    .sort()
    .map((name) => `${sumOf(folder, name)}  ${name}\n`)
    .join("");
}

/**
 * Compares a folder with its `checksums.txt`, and this file with the expected checksum of it. @throws Error with the first
 * difference
 */
export function verifyFiles(folder: string, expected: string): void {
  const text = readFileSync(join(folder, CHECKSUMS), "utf8");
  if (sha256(text) !== expected) {
    throw new Error(`${CHECKSUMS}: the SHA-256 is ${sha256(text)}, not ${expected}; publish only what the build made`);
  }
  const given = text.split("\n").filter((line) => line !== "");
  const found = checksumsOf(folder)
    .split("\n")
    .filter((line) => line !== "");
  const other = [...given, ...found].find((line) => !given.includes(line) || !found.includes(line));
  if (other !== undefined) {
    throw new Error(`${other.slice(66)}: it differs from ${CHECKSUMS}; publish only what the build made`);
  }
}
