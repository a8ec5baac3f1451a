import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { parse, parseAllDocuments } from "yaml";
import { sha256 } from "../../bin/image/oci.ts";
import { type Change, KINDS } from "../../bin/release/changelog.ts";
import { type ChartFacts, chartPackage } from "../../bin/release/chart.ts";
import { sources } from "../../bin/release/check.ts";
import { CHECKSUMS, checksumsOf, writeManifest } from "../../bin/release/files.ts";
import { sign } from "../../bin/release/sign.ts";
import { HELMS, helm, helmDone, helmsMissing } from "../chart/helm.ts";
import { findTool } from "../cluster/tools.ts";
import { programMissing } from "../harness/packages.ts";
import { tempFolder } from "../harness/proxy.ts";
import { endAgent, type Key, makeKey } from "./key.ts";

/** The package of the chart in a release, read by Helm and by the rules of Artifact Hub. */

const skip = helmsMissing() ?? programMissing("gpg") ?? false;
const { version } = JSON.parse(sources()["package.json"]);
const PAGE = "https://git.example/acme/outrider";
const IMAGE = "registry.example/acme/outrider";
const FACTS: Omit<ChartFacts, "signKey"> = {
  release: {
    version,
    date: "2026-01-02",
    text: "### Security\n\n- Closes a hole ([docs](docs/release.md)). More.\n\n### Added\n\n- `outrider release`.\n- A field.",
    upgradeNotes: undefined,
  },
  image: IMAGE,
  charts: "registry.example/acme/charts",
  platforms: ["linux/amd64", "linux/arm64"],
  repositoryURL: PAGE,
};

/** https://artifacthub.io/docs/topics/annotations/helm, and internal/tracker/source/helm/helm.go of artifacthub/hub. */
const CATEGORIES = [
  ...["ai-machine-learning", "database", "integration-delivery", "monitoring-logging", "networking", "security"],
  ...["storage", "streaming-messaging", "skip-prediction"],
];
const CAPABILITIES = ["basic install", "seamless upgrades", "full lifecycle", "deep insights", "auto pilot"];
const STRINGS = ["license", "category", "operatorCapabilities"];
const FLAGS = ["operator", "prerelease", "containsSecurityUpdates"];
const LISTS = ["changes", "crds", "crdsExamples", "images", "links"];
/** A reference with a registry and a tag. */
const REFERENCE = /^[a-z0-9.-]+(:\d+)?(\/[a-z0-9._-]+)+:[\w][\w.-]{0,127}$/;

describe("the chart of a release", { skip, timeout: 300_000 }, () => {
  const folder = tempFolder();
  const file = join(folder, `outrider-${version}.tgz`);
  let key: Key;
  let annotations: Record<string, string>;
  /** Annotation of Artifact Hub as a value. */
  const hub = <T>(name: string) => parse(annotations[`artifacthub.io/${name}`]!) as T;
  const inPackage = (path: string) => execFileSync("tar", ["-xzOf", file, `outrider/${path}`], { encoding: "utf8" });

  before(async () => {
    key = makeKey();
    const signKey = { fingerprint: key.fingerprint, url: `${PAGE}/releases/download/v${version}/signing-key.asc` };
    writeFileSync(file, chartPackage({ ...FACTS, signKey }, await findTool("helm")));
    annotations = parse(await helmDone(["show", "chart", file])).annotations;
  });
  after(() => key !== undefined && endAgent(key.home));

  test("Artifact Hub accepts the annotations", () => {
    const known = [...STRINGS, ...FLAGS, ...LISTS, "signKey"].map((name) => `artifacthub.io/${name}`);
    assert.deepEqual(Object.keys(annotations).sort(), known.sort());
    for (const name of FLAGS) assert.match(annotations[`artifacthub.io/${name}`]!, /^(true|false)$/, name);
    for (const name of LISTS) assert.ok(hub<unknown[]>(name).length > 0, name);
    assert.ok(CATEGORIES.includes(annotations["artifacthub.io/category"]!));
    assert.ok(CAPABILITIES.includes(annotations["artifacthub.io/operatorCapabilities"]!.toLowerCase()));
    assert.equal(annotations["artifacthub.io/license"], JSON.parse(sources()["package.json"]).license);
    for (const { kind, description, ...rest } of hub<Change[]>("changes")) {
      assert.ok(KINDS.includes(kind), kind);
      assert.ok(description.length > 0);
      assert.deepEqual(rest, {});
    }
    for (const { image, platforms } of hub<{ image: string; platforms: string[] }[]>("images")) {
      assert.match(image, REFERENCE);
      assert.deepEqual(platforms, FACTS.platforms);
    }
    for (const { name, url } of hub<{ name: string; url: string }[]>("links")) {
      assert.ok(name.length > 0 && url.startsWith("https://"), url);
    }
    assert.equal(hub<{ fingerprint: string }>("signKey").fingerprint, key.fingerprint);
  });

  test("annotations come from the changelog and the version", () => {
    assert.deepEqual(hub("changes"), [
      { kind: "security", description: "Closes a hole (docs)." },
      { kind: "added", description: "`outrider release`." },
      { kind: "added", description: "A field." },
    ]);
    assert.equal(annotations["artifacthub.io/containsSecurityUpdates"], "true");
    assert.equal(annotations["artifacthub.io/prerelease"], "false");
    assert.deepEqual(hub("images"), [
      { name: "outrider", image: `${IMAGE}:${version}`, platforms: ["linux/amd64", "linux/arm64"] },
    ]);
  });

  test("the CRD and its example are those of the chart", async () => {
    const values = parseAllDocuments(await helmDone(["template", "o", file, "--kube-version=1.36.0"]));
    const crds = values.map((one) => one.toJS()).filter((one) => one?.kind === "CustomResourceDefinition");
    const [crd] = hub<{ kind: string; name: string; version: string }[]>("crds");
    assert.deepEqual(
      crds.map(({ metadata, spec }) => [metadata.name, spec.names.kind, spec.versions[0].name]),
      [[crd!.name, crd!.kind, crd!.version]],
    );
    const [example] = hub<{ kind: string; apiVersion: string }[]>("crdsExamples");
    assert.equal(`${example!.apiVersion} ${example!.kind}`, `egress.outrider.dev/${crd!.version} ${crd!.kind}`);
  });

  test("the values name the image of the release", async () => {
    assert.equal(parse(await helmDone(["show", "values", file])).image.repository, IMAGE);
    const rendered = await helmDone(["template", "o", file, "--kube-version=1.36.0"]);
    const images = [...rendered.matchAll(/image: "?([^"\s]+)"?$/gm)].map(([, image]) => image);
    assert.deepEqual([...new Set(images)], [`${IMAGE}:${version}`]);
    // A value that is null has its default.
    assert.ok(
      (await helmDone(["template", "o", file, "--kube-version=1.36.0", "--set", "image=null"])).includes(IMAGE),
    );
  });

  test("the README has no link into the repository, and installs from the registry", async () => {
    const readme = await helmDone(["show", "readme", file]);
    assert.match(readme, /^# The Helm chart of outrider$/m);
    const links = [...readme.matchAll(/\]\(([^)\s]+)\)/g)].map(([, link]) => link!);
    assert.ok(links.length > 3);
    for (const link of links) assert.match(link, /^(https:|#)/);
    assert.ok(links.includes(`${PAGE}/blob/v${version}/docs/compatibility.md`));
    assert.match(readme, /^ {4}helm install outrider oci:\/\/registry\.example\/acme\/charts\/outrider /m);
    assert.doesNotMatch(readme, /REGISTRY|OWNER/);
    assert.ok(readme.includes(`| \`image.repository\` | \`"${IMAGE}"\` |`));
  });

  for (const tool of HELMS) {
    test(`${tool} lints the package strictly, and refuses a wrong value`, async () => {
      await helmDone(["lint", "--strict", file], undefined, tool);
      const { status, stderr, stdout } = await helm(["lint", "--strict", file, "--set", "replica=3"], undefined, tool);
      assert.notEqual(status, 0);
      assert.match(stdout + stderr, /replica/);
    });
  }

  test("equal input gives equal bytes, with either Helm", async () => {
    const signKey = { fingerprint: key.fingerprint, url: `${PAGE}/releases/download/v${version}/signing-key.asc` };
    for (const tool of HELMS) {
      const again = chartPackage({ ...FACTS, signKey }, await findTool(tool));
      assert.ok(again.equals(readFileSync(file)), tool);
    }
    const times = execFileSync("tar", ["-tvzf", file, "--full-time"], { encoding: "utf8", env: { TZ: "UTC" } });
    for (const line of times.trim().split("\n")) assert.match(line, / 2026-01-02 00:00:00 /);
  });

  test("helm verifies the provenance file, and refuses a package that differs by one byte", async () => {
    const dir = tempFolder();
    const chart = join(dir, `outrider-${version}.tgz`);
    writeFileSync(chart, readFileSync(file));
    writeManifest(dir, { version, date: "2026-01-02", image: IMAGE, imageDigest: "", charts: FACTS.charts });
    writeFileSync(join(dir, CHECKSUMS), checksumsOf(dir));
    const out = tempFolder();
    assert.deepEqual(sign(dir, out, key.key), [`outrider-${version}.tgz.prov`, `${CHECKSUMS}.asc`, "signing-key.asc"]);
    writeFileSync(`${chart}.prov`, readFileSync(join(out, `outrider-${version}.tgz.prov`)));
    // Users have the public key from the page of the release.
    const ring = join(out, "ring.gpg");
    writeFileSync(ring, execFileSync("gpg", ["--dearmor"], { input: readFileSync(join(out, "signing-key.asc")) }));
    for (const tool of HELMS) {
      const said = await helmDone(["verify", chart, "--keyring", ring], undefined, tool);
      assert.match(said, new RegExp(`Using Key With Fingerprint: ${key.fingerprint}`));
      assert.ok(said.includes(sha256(readFileSync(chart))));
    }
    const bytes = readFileSync(chart);
    bytes[bytes.length >> 1]! ^= 1;
    writeFileSync(chart, bytes);
    for (const tool of HELMS) {
      const { status, stderr } = await helm(["verify", chart, "--keyring", ring], undefined, tool);
      assert.notEqual(status, 0);
      assert.match(stderr, /sha256 sum does not match/);
    }
    // Another key does not verify the file.
    const other = makeKey();
    endAgent(other.home);
    const { status } = await helm(["verify", chart, "--keyring", other.ring]);
    assert.notEqual(status, 0);
  });

  test("the provenance file has the facts of helm package --sign", async () => {
    const dir = join(tempFolder(), "chart");
    mkdirSync(dir);
    execFileSync("tar", ["-xzf", file, "-C", dir]);
    const secret = join(dir, "secret.gpg");
    const { stdout } = spawnSync("gpg", ["--homedir", key.home, "--batch", "--export-secret-keys"]);
    writeFileSync(secret, stdout);
    const args = ["package", "--sign", "--key", "Release test", "--keyring", secret, "-d", dir, join(dir, "outrider")];
    await helmDone(args);
    const facts = (text: string) => {
      const message = text.slice(text.indexOf("\n\n") + 2, text.indexOf("\n-----BEGIN PGP SIGNATURE"));
      const [metadata, sums] = message.replaceAll(/^- /gm, "").split("\n...\n");
      return { metadata: parse(metadata!), files: Object.keys(parse(sums!).files) };
    };
    const ours = tempFolder();
    writeFileSync(join(ours, `outrider-${version}.tgz`), readFileSync(file));
    writeManifest(ours, { version, date: "2026-01-02", image: IMAGE, imageDigest: "", charts: FACTS.charts });
    writeFileSync(join(ours, CHECKSUMS), checksumsOf(ours));
    sign(ours, ours, key.key);
    const prov = `outrider-${version}.tgz.prov`;
    assert.deepEqual(facts(readFileSync(join(ours, prov), "utf8")), facts(readFileSync(join(dir, prov), "utf8")));
  });

  test("the package has the CRD, the schema and no file of the sources", () => {
    assert.equal(
      inPackage("files/egresspolicies.yaml"),
      readFileSync(new URL("../../crds/egresspolicies.yaml", import.meta.url), "utf8"),
    );
    const names = execFileSync("tar", ["-tzf", file], { encoding: "utf8" }).trim().split("\n");
    for (const name of ["Chart.yaml", "README.md", "values.schema.json"]) assert.ok(names.includes(`outrider/${name}`));
    for (const name of names) assert.match(name, /^outrider\/(files|templates|[\w.]+$)/);
  });
});
