import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { DIST, packageJson, ROOT } from "./bundle.ts";
import type { Source } from "./labels.ts";
import { sha256 } from "./oci.ts";
import type { TarEntry } from "./tar.ts";

/** Statements about an image, to be signed by the release: how it was built, and what it contains. They contain no time. */

/** https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md */
export interface Statement {
  _type: "https://in-toto.io/Statement/v1";
  subject: { name: string; digest: { sha256: string } }[];
  predicateType: string;
  predicate: object;
}

/** The build that a statement describes. */
export interface Built {
  /** Name of the image, without a tag. */
  name: string;
  /** Digest of its manifest or index: `sha256:…`. */
  digest: string;
  source: Source;
  /** URI of the builder; absent: `REPOSITORY#self-built`. */
  builder?: string | undefined;
  /** The program node of the image. */
  node: string;
  /** Files of this machine in the image. */
  files: readonly (TarEntry & { content: Buffer })[];
}

function statement({ name, digest }: Built, predicateType: string, predicate: object): Statement {
  const subject = [{ name, digest: { sha256: digest.replace("sha256:", "") } }];
  return { _type: "https://in-toto.io/Statement/v1", subject, predicateType, predicate };
}

/** The source of an image, complete. @throws Error: others cannot get the source */
export function sourceOf({ repository, revision }: Source): { repository: string; revision: string } {
  if (!repository) throw new Error("--repository is required: a provenance names the source of the image");
  if (revision === undefined || !/^[0-9a-f]{40}$/.test(revision)) {
    const given = revision ? `not "${revision}"` : "and there is none";
    throw new Error(`--revision must be a commit without local changes, ${given}: a provenance names this commit`);
  }
  return { repository, revision };
}

/** Provenance of a build by `make image-archive`. @throws Error without a complete source */
export function provenanceOf(built: Built): Statement {
  const { builder, files } = built;
  const { repository, revision } = sourceOf(built.source);
  const lock = readFileSync(join(ROOT, "package-lock.json"));
  // https://slsa.dev/spec/v1.0/provenance
  return statement(built, "https://slsa.dev/provenance/v1", {
    buildDefinition: {
      buildType: `${repository}#make-image-archive`,
      externalParameters: { repository, revision, version: packageJson().version },
      resolvedDependencies: [
        { uri: `git+${repository}`, digest: { gitCommit: revision } },
        { name: "package-lock.json", digest: { sha256: sha256(lock) } },
        ...files.map(({ path, content }) => ({ name: path, digest: { sha256: sha256(content) } })),
      ],
    },
    runDetails: { builder: { id: builder ?? `${repository}#self-built` } },
  });
}

/** The SBOM of the bundle, and Node.js and the libraries of the base. */
export function sbomOf(built: Built): Statement {
  const sbom = JSON.parse(readFileSync(join(ROOT, DIST, "sbom.cdx.json"), "utf8")) as { components: object[] };
  const version = execFileSync(built.node, ["--version"], { encoding: "utf8" }).trim().slice(1);
  const components = built.files.map(({ path, content }) => {
    const hashes = [{ alg: "SHA-256", content: sha256(content) }];
    if (!path.endsWith("/node")) return { type: "file", name: `/${path}`, hashes };
    return { type: "platform", name: "node", version, purl: `pkg:generic/node@${version}`, hashes };
  });
  return statement(built, "https://cyclonedx.org/bom", { ...sbom, components: [...sbom.components, ...components] });
}
