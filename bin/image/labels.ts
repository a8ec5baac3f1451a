import { packageJson } from "./bundle.ts";

/**
 * Labels of the image, with the keys of
 * https://github.com/opencontainers/image-spec/blob/v1.1.1/annotations.md. The Dockerfile has those that a build always
 * has, and `make image` adds the others; a test compares both.
 */

/** The source of a build, as far as it is known. */
export interface Source {
  /** The commit, such as `git describe --always --dirty --abbrev=40 --exclude='*'` prints it. */
  revision?: string | undefined;
  /** Address of the repository, without a slash at the end. */
  repository?: string | undefined;
  /** The time of the source, in RFC 3339. */
  created?: string | undefined;
}

/** The time that SOURCE_DATE_EPOCH gives (https://reproducible-builds.org/specs/source-date-epoch/). @throws Error */
export function timeOf(epoch: string | undefined): string | undefined {
  if (epoch === undefined || epoch === "") return undefined;
  const time = new Date(Number(epoch) * 1000);
  if (!/^\d{1,12}$/.test(epoch) || Number.isNaN(time.getTime())) {
    throw new Error(`SOURCE_DATE_EPOCH must be a time in whole seconds since 1970, not "${epoch}"`);
  }
  return time.toISOString().replace(".000Z", "Z");
}

/** Labels of the image, by their keys. Unknown parts of the source have none. */
export function labelsOf({ revision, repository, created }: Source): Record<string, string> {
  const { name, description, license, version } = packageJson();
  const labels: Record<string, string | undefined> = {
    title: name,
    description,
    licenses: license,
    version,
    revision,
    source: repository,
    url: repository,
    documentation: repository && `${repository}#readme`,
    created,
  };
  const known = Object.entries(labels).flatMap(([key, value]) =>
    value ? [[`org.opencontainers.image.${key}`, value]] : [],
  );
  return Object.fromEntries(known);
}
