import { readFileSync } from "node:fs";
import { type Section, sectionOf, upgradeNotesOf } from "./changelog.ts";
import { VERSION } from "./target.ts";

/** `node bin/release/check.ts TAG`: checks that a tag is the version of the package and of the chart, and has its changelog. */

const ROOT = new URL("../..", import.meta.url);

/** Texts that name the version. */
export interface Sources {
  "package.json": string;
  "charts/outrider/Chart.yaml": string;
  "CHANGELOG.md": string;
  "docs/release.md": string;
}

/** A release that may be built. */
export interface Release extends Section {
  version: string;
  /** Upgrade notes; undefined: none. */
  upgradeNotes: string | undefined;
}

/** The sources of this project. */
export function sources(): Sources {
  const read = (path: string) => readFileSync(new URL(path, ROOT), "utf8");
  return {
    "package.json": read("package.json"),
    "charts/outrider/Chart.yaml": read("charts/outrider/Chart.yaml"),
    "CHANGELOG.md": read("CHANGELOG.md"),
    "docs/release.md": read("docs/release.md"),
  };
}

/** The release of a tag, or why it must not be built. */
export function releaseOf(tag: string, from: Sources): Release | { error: string } {
  const version = tag.slice(1);
  if (!tag.startsWith("v") || !VERSION.test(version)) return { error: `tag "${tag}" is not vX.Y.Z or vX.Y.Z-PRE` };
  const field = (key: string) =>
    new RegExp(`^${key}: "?([^"\\n]*)"?$`, "m").exec(from["charts/outrider/Chart.yaml"])?.[1];
  const named: [place: string, found: string | undefined][] = [
    ["package.json: version", JSON.parse(from["package.json"]).version],
    ["charts/outrider/Chart.yaml: version", field("version")],
    ["charts/outrider/Chart.yaml: appVersion", field("appVersion")],
  ];
  const other = named.find(([, found]) => found !== version);
  if (other !== undefined) {
    return {
      error: `tag ${tag}: ${other[0]} is ${other[1] ?? "absent"}, not ${version}; tag the commit of the release`,
    };
  }
  const section = sectionOf(from["CHANGELOG.md"], version);
  if ("error" in section) return section;
  return { version, ...section, upgradeNotes: upgradeNotesOf(from["docs/release.md"], version) };
}

if (import.meta.main) {
  const release = releaseOf(process.argv[2] ?? "", sources());
  if ("error" in release) {
    console.error(release.error);
    process.exitCode = 2;
  } else console.log(`${release.version} of ${release.date}`);
}
