import { appendFileSync, copyFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { parseArgs } from "node:util";
import { sha256 } from "../image/oci.ts";
import { writeTar } from "../image/tar.ts";
import { repositoryMetadata } from "./artifact-hub.ts";
import { absoluteLinks } from "./changelog.ts";
import { chartPackage } from "./chart.ts";
import { type Release, releaseOf, sources } from "./check.ts";
import { CHECKSUMS, chartFile, checksumsOf, imageFile, METADATA, writeManifest } from "./files.ts";
import { combined } from "./image-index.ts";
import { type Target, targetOf } from "./target.ts";

/** Builds the files of a release in a new folder: image, chart, CRD, further files, notes and checksums. */

const HELP = `Usage: assemble.ts --tag vX.Y.Z --registry HOST --owner PATH --repository-url URL --image FILE… [options]

  --tag vX.Y.Z          tag of the release; package.json, Chart.yaml and CHANGELOG.md must have this version
  --registry HOST       registry of image and chart, such as ghcr.io
  --owner PATH          path in it, such as acme: HOST/acme/outrider and HOST/acme/charts/outrider
  --repository-url URL  page of the source repository, for links
  --image FILE          OCI archive of make image-archive; once for each architecture
  --file FILE           a further file of the release; may be repeated
  --sign-key FINGERPRINT,URL  public key of the chart's provenance file, for Artifact Hub
  --artifacthub-id UUID  ID of the chart's repository in Artifact Hub, for charts/artifacthub-repo.yml
  --out FOLDER          a folder that does not exist yet (default: release)

Prints the SHA-256 of ${CHECKSUMS}, and writes it to $GITHUB_OUTPUT as checksums. HELM is the program Helm (default: helm).`;

const CRD = new URL("../../crds/egresspolicies.yaml", import.meta.url).pathname;

/** Text of the release page. */
function notesOf(
  { version, text, upgradeNotes }: Release,
  target: Target,
  digest: string,
  repositoryURL: string,
): string {
  const at = (path: string) => `${repositoryURL}/blob/v${version}/${path}`;
  const upgrade =
    upgradeNotes === undefined ? "" : `## Upgrade notes\n\n${absoluteLinks(upgradeNotes, at("docs/release.md"))}\n\n`;
  return `Image: \`${target.image}:${version}@${digest}\`

    helm install outrider oci://${target.charts}/outrider --version ${version} -n outrider-system --create-namespace --wait

[How to verify signatures and provenance](${at("docs/release.md#verify-a-release")})

${upgrade}## Changes

${absoluteLinks(text, at("CHANGELOG.md"))}
`;
}

function signKeyOf(text: string | undefined): { fingerprint: string; url: string } | undefined {
  if (!text) return undefined;
  const [, fingerprint, url] = /^([0-9A-F]{40}),(https:\S+)$/.exec(text) ?? [];
  if (url === undefined)
    throw new Error(`--sign-key: "${text}" is not FINGERPRINT,URL; use 40 hex digits in upper case, and https`);
  return { fingerprint: fingerprint!, url };
}

/** Copies a file into the folder of the release. @throws Error if a file of this name is there */
function add(file: string, out: string): void {
  const to = join(out, basename(file));
  if (existsSync(to)) throw new Error(`--file: ${file} has the name of another file of the release; rename it`);
  copyFileSync(file, to);
}

function assemble(values: { [key: string]: string | string[] | undefined }): string {
  const given = (name: string): string => {
    const value = values[name];
    if (typeof value !== "string" || value === "") throw new Error(`--${name} is missing; see --help`);
    return value;
  };
  const release = releaseOf(given("tag"), sources());
  if ("error" in release) throw new Error(release.error);
  const { version, date } = release;
  const target = targetOf(given("registry"), given("owner"));
  const repositoryURL = given("repository-url").replace(/\/$/, "");
  const signKey = signKeyOf(values["sign-key"] as string | undefined);
  const image = combined(values.image as string[], version);
  const { platforms } = image;
  const out = given("out");
  mkdirSync(out);
  writeTar(join(out, imageFile(version)), image.entries);
  const hub = values["artifacthub-id"] as string | undefined;
  if (hub) writeTar(join(out, METADATA), repositoryMetadata(hub));
  const { image: name, charts } = target;
  const facts = { release, image: name, charts, platforms, repositoryURL, ...(signKey && { signKey }) };
  writeFileSync(join(out, chartFile(version)), chartPackage(facts, process.env.HELM || "helm"));
  for (const file of [CRD, ...(values.file as string[])]) add(file, out);
  writeManifest(out, { version, date, image: name, imageDigest: image.digest, charts });
  writeFileSync(join(out, "notes.md"), notesOf(release, target, image.digest, repositoryURL));
  writeFileSync(join(out, CHECKSUMS), checksumsOf(out));
  return sha256(readFileSync(join(out, CHECKSUMS)));
}

if (import.meta.main) {
  const text = { type: "string" } as const;
  const list = { type: "string", multiple: true, default: [] as string[] } as const;
  const options = {
    ...{ tag: text, registry: text, owner: text, "repository-url": text, "sign-key": text, "artifacthub-id": text },
    ...{ image: list, file: list, out: { ...text, default: "release" }, help: { type: "boolean" as const } },
  };
  try {
    const { help, ...values } = parseArgs({ options }).values;
    if (help) console.log(HELP);
    else {
      const checksums = assemble(values);
      console.log(checksums);
      if (process.env.GITHUB_OUTPUT) appendFileSync(process.env.GITHUB_OUTPUT, `checksums=${checksums}\n`);
    }
  } catch (error) {
    console.error((error as Error).message);
    process.exitCode = 2;
  }
}
