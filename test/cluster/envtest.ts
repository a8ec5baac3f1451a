import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { chmodSync, mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { arch, platform } from "node:os";
import { dirname, join } from "node:path";
import type { Tool } from "./tools.ts";

/** Tools in envtest's archives (https://book.kubebuilder.io/reference/envtest). */
const INSIDE = ["etcd", "kube-apiserver", "kubectl"];
const RELEASES = "https://github.com/kubernetes-sigs/controller-tools/releases/download";
const INDEX = "https://github.com/kubernetes-sigs/controller-tools/blob/main/envtest-releases.yaml";
const DIGEST = /^[0-9a-f]{128}$/;
const VERSION = /^v\d+\.\d+\.\d+$/;
const CPUS: Readonly<Record<string, string>> = { x64: "amd64", arm64: "arm64", ppc64: "ppc64le", s390x: "s390x" };

/**
 * Takes a tool from the archive of Kubernetes' own envtest, when Go is missing. It downloads only an archive that the
 * user selected with its SHA-512, because the program will be run. @throws with the fix, when the archive does not have
 * it or the user gave no digest
 */
export async function envtestArchive(
  tool: Tool,
  version: string,
  out: string,
  say: (line: string) => void,
): Promise<void> {
  const help = `${tool.name} ${version} is missing: install Go >= 1.26, or set KUBEBUILDER_ASSETS to a folder that has it`;
  if (!INSIDE.includes(tool.name)) throw new Error(`${help} (envtest's archive does not have it)`);
  const digest = process.env.OUTRIDER_ENVTEST_SHA512 ?? "";
  const release = process.env.OUTRIDER_ENVTEST_VERSION ?? "";
  if (!DIGEST.test(digest) || !VERSION.test(release)) {
    const names = "OUTRIDER_ENVTEST_VERSION (such as v1.36.0) and OUTRIDER_ENVTEST_SHA512";
    throw new Error(`${help}, or set ${names} to the values in ${INDEX} to download envtest's archive`);
  }
  const file = `envtest-${release}-${platform()}-${CPUS[arch()] ?? arch()}.tar.gz`;
  const url = `${RELEASES}/envtest-${release}/${file}`;
  say(`${tool.name}: downloading ${url}`);
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: HTTP status ${response.status}; ${help}`);
  const bytes = Buffer.from(await response.arrayBuffer());
  const found = createHash("sha512").update(bytes).digest("hex");
  if (found !== digest) throw new Error(`${url}: SHA-512 is ${found}, not OUTRIDER_ENVTEST_SHA512; nothing was kept`);
  mkdirSync(dirname(out), { recursive: true });
  const folder = mkdtempSync(join(dirname(out), ".envtest-"));
  try {
    writeFileSync(join(folder, file), bytes);
    const untar = spawnSync("tar", ["-xzf", file, "--strip-components=2"], { cwd: folder, encoding: "utf8" });
    if (untar.status !== 0) throw new Error(`${file}: tar: ${untar.stderr || untar.error?.message}`);
    chmodSync(join(folder, tool.name), 0o755);
    renameSync(join(folder, tool.name), out);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
