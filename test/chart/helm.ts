import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { findTool, toolsMissing } from "../cluster/tools.ts";
import { type Finished, finish } from "../harness/finish.ts";
import { tempFolder } from "../harness/proxy.ts";

const ROOT = new URL("../..", import.meta.url).pathname;
export const CHART = join(ROOT, "charts/outrider");
/** Of the API that templates are rendered for: helm without a cluster assumes an old one. */
export const KUBE_VERSION = "1.36.0";

/** Why there is no helm; null when there is. */
export const helmMissing = (): string | null => toolsMissing(["helm"]);

/** Helm 3 and Helm 4. */
export const HELMS = ["helm", "helm4"] as const;
export type Helm = (typeof HELMS)[number];

/** Why there are not both; null when there are. */
export const helmsMissing = (): string | null => toolsMissing(HELMS);

const home = tempFolder();

/** Runs helm with a home of its own. */
export async function helm(args: readonly string[], kubeconfig = "/dev/null", tool: Helm = "helm"): Promise<Finished> {
  const { PATH } = process.env;
  const env = { PATH, HOME: home, KUBECONFIG: kubeconfig };
  const child = spawn(await findTool(tool), args, { env, stdio: ["ignore", "pipe", "pipe"] });
  return finish(child);
}

/** Runs helm; what it prints. @throws Error with its own words */
export async function helmDone(args: readonly string[], kubeconfig?: string, tool?: Helm): Promise<string> {
  const { status, stdout, stderr } = await helm(args, kubeconfig, tool);
  if (status !== 0) throw new Error(`${tool ?? "helm"} ${args.join(" ")}: ${stderr}`);
  return stdout;
}

/** `helm template` as a release `outrider` in `outrider-system`. */
export const template = (...args: string[]): Promise<Finished> =>
  helm(["template", "outrider", CHART, "-n", "outrider-system", `--kube-version=${KUBE_VERSION}`, ...args]);

/** Copy of the chart as version 0.0.9, with replacements in its files. @throws AssertionError if a file lacks a text */
export function olderChart(...replacements: readonly (readonly [file: string, from: string, to: string])[]): string {
  const folder = join(tempFolder(), "outrider");
  cpSync(CHART, folder, { recursive: true });
  for (const [file, from, to] of [["Chart.yaml", "\nversion: 0.1.0", "\nversion: 0.0.9"] as const, ...replacements]) {
    const text = readFileSync(join(folder, file), "utf8");
    assert.ok(text.includes(from), `${file} has ${from}`);
    writeFileSync(join(folder, file), text.replace(from, to));
  }
  return folder;
}
