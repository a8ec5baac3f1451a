/** Sections of CHANGELOG.md (Keep a Changelog) and of the upgrade notes in docs/release.md. Pure. */

/** One section of the changelog. */
export interface Section {
  /** Day of the release, `YYYY-MM-DD`. */
  date: string;
  /** Markdown below the heading. */
  text: string;
}

/** An entry of `artifacthub.io/changes`. */
export interface Change {
  kind: string;
  description: string;
}

/** Kinds of Artifact Hub, which are the headings of Keep a Changelog in lower case. */
export const KINDS: readonly string[] = ["added", "changed", "deprecated", "removed", "fixed", "security"];
/** Bounds of `artifacthub.io/changes`: it is part of the manifest, of which registries accept 4 MB. */
const MAX_CHANGES = 200;
const MAX_CHARACTERS = 300;

/** Text between this heading and the next one of its level; undefined: there is no such heading. */
function below(text: string, heading: RegExp): { heading: RegExpExecArray; text: string } | undefined {
  const found = heading.exec(text);
  if (found === null) return undefined;
  const level = /^#+/.exec(found[0])![0];
  const rest = text.slice(found.index + found[0].length);
  const end = rest.search(new RegExp(`^#{1,${level.length}} `, "m"));
  return { heading: found, text: (end < 0 ? rest : rest.slice(0, end)).trim() };
}

const quoted = (version: string) => version.replaceAll(".", "\\.");

/** The section of a version, or why there is none. */
export function sectionOf(changelog: string, version: string): Section | { error: string } {
  const found = below(changelog, new RegExp(`^## \\[${quoted(version)}\\](.*)$`, "m"));
  const fix = `rename "## [Unreleased]" to "## [${version}] - YYYY-MM-DD"`;
  if (found === undefined) return { error: `CHANGELOG.md: no section of ${version}; ${fix}` };
  const date = /^ - (\d{4}-\d{2}-\d{2})$/.exec(found.heading[1]!)?.[1];
  if (date === undefined || Number.isNaN(Date.parse(date))) {
    return { error: `CHANGELOG.md: the section of ${version} has no date; ${fix}` };
  }
  if (found.text === "") return { error: `CHANGELOG.md: the section of ${version} is empty; describe its changes` };
  return { date, text: found.text };
}

/** Upgrade notes of a version; undefined: none. */
export const upgradeNotesOf = (release: string, version: string): string | undefined =>
  below(release, new RegExp(`^### ${quoted(version)}$`, "m"))?.text;

/** First sentence of an entry as plain text: links become their text. */
function sentence(entry: string): string {
  const plain = entry
    .replaceAll(/\[([^\]]*)\]\([^)]*\)/g, "$1")
    .replaceAll(/\s+/g, " ")
    .trim();
  const first = /^.*?[.:](?= [A-Z`])/.exec(plain)?.[0] ?? plain;
  return first.length > MAX_CHARACTERS ? `${first.slice(0, MAX_CHARACTERS - 1)}…` : first;
}

/** Entries of a section for Artifact Hub: the first sentence of each, in their order. */
export function changesOf({ text }: Section): Change[] {
  const parts = text.split(/^### /m).slice(1);
  const changes = parts.flatMap((part) => {
    const kind = part.slice(0, part.indexOf("\n")).trim().toLowerCase();
    if (!KINDS.includes(kind)) return [];
    return part
      .split(/^- /m)
      .slice(1)
      .map((entry) => ({ kind, description: sentence(entry) }));
  });
  return changes.slice(0, MAX_CHANGES);
}

/** Markdown whose relative links are absolute. `base`: URL that they start from. Links within the page stay. */
export const absoluteLinks = (text: string, base: string): string =>
  text.replaceAll(/\]\(([^)\s]+)\)/g, (whole, link: string) =>
    /^([a-z]+:|#)/.test(link) ? whole : `](${new URL(link, base).href})`,
  );
