import { execFileSync } from "node:child_process";
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gunzipSync, gzipSync } from "node:zlib";
import { parseDocument, stringify } from "yaml";
import { absoluteLinks, changesOf } from "./changelog.ts";
import type { Release } from "./check.ts";

/**
 * The package of the chart. It names the image of the release, has absolute links, and the metadata of Artifact Hub that
 * only a release knows. Equal input gives equal bytes, which `helm package` alone does not.
 */

const CHART = new URL("../../charts/outrider", import.meta.url).pathname;
/** Placeholder in the README of the chart. */
const PLACE = "REGISTRY/OWNER";

/** Facts that only the release knows. */
export interface ChartFacts {
  release: Release;
  /** Image without tag. */
  image: string;
  /** Where the chart is pushed, without `oci://` and the name of the chart. */
  charts: string;
  /** Platforms of the image, such as `linux/amd64`. */
  platforms: readonly string[];
  /** Page of the source repository, without a slash at its end. */
  repositoryURL: string;
  /** Public half of the key that signs the chart; undefined: the chart has no provenance file. */
  signKey?: { fingerprint: string; url: string };
}

/** Replaces a text. @throws Error if the file lacks it */
function edit(file: string, from: string, to: string): void {
  const text = readFileSync(file, "utf8");
  if (!text.includes(from)) throw new Error(`${file}: "${from}" is missing; correct bin/release/chart.ts`);
  writeFileSync(file, text.replaceAll(from, to));
}

/** Annotations of Artifact Hub: https://artifacthub.io/docs/topics/annotations/helm */
function annotationsOf({ release, image, platforms, repositoryURL, signKey }: ChartFacts): Record<string, string> {
  const { version } = release;
  const changes = changesOf(release);
  const links = [
    { name: "source", url: repositoryURL },
    { name: "documentation", url: `${repositoryURL}/blob/v${version}/docs/README.md` },
    { name: "changelog", url: `${repositoryURL}/blob/v${version}/CHANGELOG.md` },
    { name: "support", url: `${repositoryURL}/issues` },
  ];
  const values: Record<string, unknown> = {
    images: [{ name: "outrider", image: `${image}:${version}`, platforms }],
    changes,
    links,
    ...(signKey === undefined ? {} : { signKey }),
  };
  const texts = Object.entries(values).map(([key, value]): [string, string] => [
    key,
    stringify(value, { lineWidth: 0 }),
  ]);
  const flags: [string, string][] = [
    ["containsSecurityUpdates", `${changes.some(({ kind }) => kind === "security")}`],
    ["prerelease", `${version.includes("-")}`],
  ];
  return Object.fromEntries([...texts, ...flags].map(([key, value]) => [`artifacthub.io/${key}`, value]));
}

/** Writes the chart of the release into a folder. */
export function stageChart(folder: string, facts: ChartFacts): void {
  const { release, image, charts, repositoryURL } = facts;
  cpSync(CHART, folder, { recursive: true });
  const file = (path: string) => join(folder, path);
  const chart = parseDocument(readFileSync(file("Chart.yaml"), "utf8"));
  chart.set("home", repositoryURL);
  chart.set("sources", [repositoryURL]);
  for (const [key, value] of Object.entries(annotationsOf(facts))) chart.setIn(["annotations", key], value);
  writeFileSync(file("Chart.yaml"), chart.toString({ lineWidth: 0 }));
  edit(file("values.yaml"), "  repository: outrider\n", `  repository: ${image}\n`);
  edit(
    file("files/defaults.yaml"),
    `image.repository: '{"value":"outrider"}'`,
    `image.repository: '{"value":"${image}"}'`,
  );
  edit(file("README.md"), '| `image.repository` | `"outrider"` |', `| \`image.repository\` | \`"${image}"\` |`);
  edit(file("README.md"), `oci://${PLACE}/charts`, `oci://${charts}`);
  const readme = readFileSync(file("README.md"), "utf8");
  const base = `${repositoryURL}/blob/v${release.version}/charts/outrider/README.md`;
  writeFileSync(file("README.md"), absoluteLinks(readme, base));
}

const BLOCK = 512;

/** Sets the time of each file in a tar archive, in place. `seconds`: since 1970. @throws Error for extended headers */
export function setTimes(tar: Buffer, seconds: number): void {
  for (let at = 0; at + BLOCK <= tar.length && tar[at] !== 0; ) {
    const header = tar.subarray(at, at + BLOCK);
    const type = String.fromCharCode(header[156]!);
    if (type !== "0" && type !== "5") throw new Error(`chart: a tar header of the unknown type ${type}`);
    header.write(`${seconds.toString(8).padStart(11, "0")}\0`, 136);
    header.write(" ".repeat(8), 148);
    const sum = header.reduce((total, byte) => total + byte, 0);
    header.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148);
    const size = Number.parseInt(header.toString("latin1", 124, 135), 8);
    at += BLOCK * (1 + Math.ceil(size / BLOCK));
  }
}

/** Packages the chart of a release. @param helm the program Helm */
export function chartPackage(facts: ChartFacts, helm: string): Buffer {
  const folder = mkdtempSync(join(tmpdir(), "outrider-chart-"));
  try {
    stageChart(join(folder, "outrider"), facts);
    // Helm reads neither repositories nor a cluster.
    const env = { PATH: process.env.PATH, HOME: folder };
    const stdio = ["ignore", "ignore", "pipe"] as const;
    execFileSync(helm, ["package", join(folder, "outrider"), "-d", join(folder, "out")], { env, stdio: [...stdio] });
    const tar = gunzipSync(readFileSync(join(folder, "out", readdirSync(join(folder, "out"))[0]!)));
    setTimes(tar, Date.parse(facts.release.date) / 1000);
    return gzipSync(tar, { level: 9 });
  } finally {
    rmSync(folder, { recursive: true });
  }
}
