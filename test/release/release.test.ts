import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { appendFileSync, cpSync, existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { sha256 } from "../../bin/image/oci.ts";
import { helmMissing } from "../chart/helm.ts";
import { findTool } from "../cluster/tools.ts";
import { programMissing } from "../harness/packages.ts";
import { tempFolder } from "../harness/proxy.ts";
import { endAgent, makeKey } from "./key.ts";
import { type Registry, startRegistry } from "./registry.ts";
import { otherArchitecture, releaseSources } from "./sources.ts";

/** The scripts of the release workflow, with a real registry on loopback. */

const skip =
  helmMissing() ?? programMissing("skopeo") ?? programMissing("docker-registry") ?? programMissing("gpg") ?? false;
const VERSION = "0.1.0";
const PAGE = "https://git.example/acme/outrider";

describe("a release", { skip, timeout: 600_000 }, () => {
  const folder = tempFolder();
  const at = (name: string) => join(folder, name);
  let sources: string;
  let registry: Registry;
  let env: NodeJS.ProcessEnv;
  let helm: string;
  /** Digests of the manifests in the archives. */
  let digests: string[];
  /** SHA-256 of the checksums, as assemble.ts printed it. */
  let checksums: string;

  const run = (program: string, args: readonly string[], more: NodeJS.ProcessEnv = {}) =>
    spawnSync(program, args, { encoding: "utf8", env: { ...env, ...more }, maxBuffer: 1 << 24 });
  const done = (program: string, args: readonly string[], more?: NodeJS.ProcessEnv): string => {
    const { status, stdout, stderr } = run(program, args, more);
    assert.equal(status, 0, `${program} ${args.join(" ")}: ${stderr}`);
    return stdout;
  };
  const script = (name: string, ...args: string[]) =>
    run(process.execPath, [join(sources, "bin/release", name), ...args]);
  const assemble = (out: string, owner = "Acme", ...args: string[]) =>
    script(
      "assemble.ts",
      ...[
        "--tag",
        `v${VERSION}`,
        "--registry",
        registry.host,
        "--owner",
        owner,
        "--repository-url",
        PAGE,
        "--out",
        out,
      ],
      ...["--image", at("amd64.tar"), "--image", at("arm64.tar"), ...args],
    );
  const publish = (dir: string, sum: string, owner = "Acme") =>
    script(
      "publish.ts",
      ...["--dir", dir, "--checksums", sum, "--registry", registry.host, "--owner", owner],
      ...["--signatures", at("signatures")],
    );
  const inspect = (name: string) =>
    done("skopeo", ["inspect", "--raw", "--tls-verify=false", `docker://${registry.host}/${name}`]);
  const failsWith = ({ status, stdout, stderr }: ReturnType<typeof run>, reason: RegExp) => {
    assert.equal(status, 2, stdout + stderr);
    assert.match(stderr, reason);
    assert.equal(stderr.split("\n").length, 2, stderr);
  };

  before(async () => {
    sources = releaseSources(VERSION, "2026-01-02");
    registry = await startRegistry();
    helm = await findTool("helm");
    env = { PATH: process.env.PATH, HOME: registry.home(), HELM: helm };
    // Not Node.js, whose 100 MB this test would copy, hash and push a dozen times.
    const args = ["--out", at("amd64.tar"), "--node", "/bin/true"];
    const said = done(process.execPath, [join(sources, "bin/image/archive.ts"), ...args]);
    digests = [said.trim().split(" ").at(-1)!, otherArchitecture(at("amd64.tar"), "arm64", at("arm64.tar"))];
    const { status, stdout, stderr } = assemble(at("release"));
    assert.equal(status, 0, stderr);
    checksums = stdout.trim();
  });
  after(() => registry?.stop());

  test("a tag that is not the version fails with one line", () => {
    const named = script("check.ts", "v0.1.1");
    failsWith(named, /^tag v0\.1\.1: package\.json: version is 0\.1\.0, not 0\.1\.1; tag the commit of the release$/m);
    failsWith(script("assemble.ts", "--tag", "0.1.0"), /^tag "0\.1\.0" is not vX\.Y\.Z or vX\.Y\.Z-PRE$/m);
    assert.equal(script("check.ts", `v${VERSION}`).stdout, "0.1.0 of 2026-01-02\n");
  });

  test("the checksums are those of sha256sum, and a second build has the same", () => {
    const sum = run("sh", ["-c", `cd ${at("release")} && sha256sum --check --strict checksums.txt`]);
    assert.equal(sum.status, 0, sum.stdout + sum.stderr);
    assert.equal(assemble(at("again")).stdout.trim(), checksums);
  });

  test("files that differ from the build are not published", () => {
    const copy = (change: (dir: string) => void): string => {
      const dir = tempFolder();
      cpSync(at("release"), dir, { recursive: true });
      change(dir);
      return dir;
    };
    const longer = copy((dir) => appendFileSync(join(dir, "egresspolicies.yaml"), "\n"));
    failsWith(publish(longer, checksums), /^egresspolicies\.yaml: it differs from checksums\.txt; publish only/);
    const more = copy((dir) => writeFileSync(join(dir, "more"), ""));
    failsWith(publish(more, checksums), /^more: it differs from checksums\.txt/);
    const forged = copy((dir) => appendFileSync(join(dir, "checksums.txt"), "\n"));
    failsWith(publish(forged, checksums), /^checksums\.txt: the SHA-256 is /);
    failsWith(
      publish(at("release"), checksums, "other"),
      /other\/outrider is not \S+\/acme\/outrider, which the chart names/,
    );
  });

  test("without credentials nothing is pushed", () => {
    env.HOME = registry.home("releaser:wrong");
    failsWith(publish(at("release"), checksums), /^skopeo inspect: .*(unauthorized|authentication required)/);
    env.HOME = registry.home();
    assert.match(
      run("skopeo", ["inspect", "--tls-verify=false", `docker://${registry.host}/acme/outrider:0.1.0`]).stderr,
      /unknown/,
    );
  });

  describe("once published", () => {
    let printed: string;
    before(() => {
      const { status, stdout, stderr } = publish(at("release"), checksums);
      assert.equal(status, 0, stderr);
      printed = stdout;
    });

    test("skopeo pulls the image of each architecture with its digest", () => {
      const index = inspect("acme/outrider:0.1.0");
      assert.match(printed, new RegExp(`^image_digest=sha256:${sha256(index)}$`, "m"));
      const manifests = JSON.parse(index).manifests as { digest: string; platform: { architecture: string } }[];
      assert.deepEqual(
        manifests.map(({ digest, platform }) => [platform.architecture, digest]),
        ["amd64", "arm64"].map((name, i) => [name, digests[i]]),
      );
      for (const [i, name] of ["amd64", "arm64"].entries()) {
        const out = tempFolder();
        const from = `docker://${registry.host}/acme/outrider:0.1.0`;
        done("skopeo", ["--override-arch", name, "copy", "--src-tls-verify=false", from, `dir:${out}`]);
        assert.equal(`sha256:${sha256(readFileSync(join(out, "manifest.json")))}`, digests[i]);
      }
    });

    test("helm pulls the chart of the build, which names the image", () => {
      const out = tempFolder();
      const chart = `oci://${registry.host}/acme/charts/outrider`;
      done(helm, ["pull", chart, "--version", VERSION, "--plain-http", "-d", out]);
      const pulled = readFileSync(join(out, "outrider-0.1.0.tgz"));
      assert.ok(pulled.equals(readFileSync(at("release/outrider-0.1.0.tgz"))));
      assert.match(printed, new RegExp(`^chart_digest=sha256:${sha256(inspect("acme/charts/outrider:0.1.0"))}$`, "m"));
      const args = ["template", "outrider", chart, "--version", VERSION, "--plain-http", "--kube-version=1.36.0"];
      const text = done(helm, args);
      assert.match(text, new RegExp(`image: "?${registry.host}/acme/outrider:0\\.1\\.0"?`));
    });

    test("a second run pushes nothing and prints the same", () => {
      const before = inspect("acme/charts/outrider:0.1.0");
      const again = publish(at("release"), checksums);
      assert.equal(again.stdout, printed, again.stderr);
      assert.equal(inspect("acme/charts/outrider:0.1.0"), before);
    });

    test("a chart with other content is not overwritten", () => {
      const before = inspect("acme/charts/outrider:0.1.0");
      const notes = join(sources, "CHANGELOG.md");
      const text = readFileSync(notes, "utf8");
      writeFileSync(notes, text.replace("### Security\n", "### Security\n\n- Another change.\n"));
      const other = assemble(at("other")).stdout.trim();
      writeFileSync(notes, text);
      assert.notEqual(other, checksums);
      failsWith(
        publish(at("other"), other),
        /\/acme\/charts\/outrider:0\.1\.0 exists with other content \(sha256:\w+, not sha256:\w+\); release a new version$/m,
      );
      assert.equal(inspect("acme/charts/outrider:0.1.0"), before);
    });
  });

  test("an image with other content is not overwritten, and no chart is pushed", () => {
    const to = `docker://${registry.host}/second/outrider:0.1.0`;
    done("skopeo", ["copy", "--dest-tls-verify=false", `oci-archive:${at("amd64.tar")}`, to]);
    const before = inspect("second/outrider:0.1.0");
    const sum = assemble(at("second"), "second").stdout.trim();
    failsWith(publish(at("second"), sum, "second"), /\/second\/outrider:0\.1\.0 exists with other content/);
    assert.equal(inspect("second/outrider:0.1.0"), before);
    const chart = run("skopeo", [
      "inspect",
      "--tls-verify=false",
      `docker://${registry.host}/second/charts/outrider:0.1.0`,
    ]);
    assert.match(chart.stderr, /unknown/);
  });

  test("signatures and Artifact Hub's metadata are pushed beside the chart", () => {
    const { home, key, ring } = makeKey();
    try {
      const id = "01234567-89ab-cdef-0123-456789abcdef";
      const sum = assemble(at("third"), "third", "--artifacthub-id", id).stdout.trim();
      const signed = run(process.execPath, [join(sources, "bin/release/sign.ts"), at("third"), sum, at("signatures")], {
        SIGN_KEY: key,
      });
      assert.equal(signed.status, 0, signed.stderr);
      const { status, stderr } = publish(at("third"), sum, "third");
      assert.equal(status, 0, stderr);
      const out = tempFolder();
      const chart = `oci://${registry.host}/third/charts/outrider`;
      done(helm, ["pull", chart, "--version", VERSION, "--plain-http", "-d", out, "--verify", "--keyring", ring]);
      assert.ok(existsSync(join(out, "outrider-0.1.0.tgz.prov")));
      const manifest = JSON.parse(inspect("third/charts/outrider:artifacthub.io"));
      assert.equal(manifest.config.mediaType, "application/vnd.cncf.artifacthub.config.v1+yaml");
      const blob = run("skopeo", [
        "copy",
        "--src-tls-verify=false",
        `docker://${registry.host}/third/charts/outrider:artifacthub.io`,
        `dir:${out}/hub`,
      ]);
      assert.equal(blob.status, 0, blob.stderr);
      const text = readFileSync(join(out, "hub", manifest.layers[0].digest.replace("sha256:", "")), "utf8");
      assert.match(text, new RegExp(`^repositoryID: ${id}$`, "m"));
      const verify = run("gpg", [
        "--homedir",
        home,
        "--verify",
        at("signatures/checksums.txt.asc"),
        at("third/checksums.txt"),
      ]);
      assert.match(verify.stderr, /Good signature/);
    } finally {
      endAgent(home);
    }
  });
});
