import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync, rmdirSync } from "node:fs";
import { join } from "node:path";
import { aptLine, CLUSTER_PROGRAMS, PLUGIN_PACKAGE, packagesMissing, programMissing } from "../../harness/packages.ts";

/** Requirements of a real node on this machine. */

/** Folders of the CNI plugins: in Debian, and elsewhere. */
const PLUGIN_FOLDERS = ["/usr/lib/cni", "/opt/cni/bin"];
const PLUGINS = ["bridge", "host-local", "loopback"];
const CGROUPS = "/sys/fs/cgroup";
const GROUP = /^outrider-(\d+)-node-\d+$/;

/** The folder with the CNI plugins of a bridge. */
export const pluginFolder = (): string | undefined =>
  PLUGIN_FOLDERS.find((folder) => PLUGINS.every((name) => existsSync(join(folder, name))));

/** Debian packages that a real cluster needs and that are not installed, sorted. */
export function clusterPackagesMissing(): string[] {
  const packages = packagesMissing(CLUSTER_PROGRAMS);
  return pluginFolder() === undefined ? [...packages, PLUGIN_PACKAGE].sort() : packages;
}

/** The reason why the kernel cannot run a real node; null when it can. */
export const kernelMissing = (): string | null =>
  existsSync("/proc/sys/net/bridge") ? null : "needs the kernel module br_netfilter (modprobe br_netfilter)";

/** The reason why no real node can run here; null when one can. */
export function machineMissing(): string | null {
  if (process.getuid!() !== 0) return "needs root, for a real node";
  const packages = clusterPackagesMissing();
  if (packages.length > 0) return `needs Debian packages, for a real node: ${aptLine(packages)}`;
  return kernelMissing();
}

/** The reason why kube-router cannot run here; null when it can. It keeps addresses of pods in sets of the kernel. */
export function ipsetMissing(): string | null {
  const missing = programMissing("ipset");
  if (missing !== null) return missing;
  return spawnSync("ipset", ["list", "-name"]).status === 0 ? null : "needs a kernel with ip_set, for ipset";
}

/** The control group of a node, by the process that it belongs to. */
export const groupOf = (node: string): string => `outrider-${process.pid}-${node}`;

/** Hierarchies of control groups: one of version 2, several of version 1. */
function hierarchies(): string[] {
  if (existsSync(join(CGROUPS, "cgroup.controllers"))) return [CGROUPS];
  return readdirSync(CGROUPS).map((name) => join(CGROUPS, name));
}

function removeGroup(folder: string): void {
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    if (entry.isDirectory()) removeGroup(join(folder, entry.name));
  }
  rmdirSync(folder);
}

/** Removes the control groups of ended nodes. With `own` also those of this process. */
export function removeGroups(own: boolean): string[] {
  const left: string[] = [];
  for (const hierarchy of hierarchies()) {
    for (const name of readdirSync(hierarchy)) {
      const pid = GROUP.exec(name)?.[1];
      if (pid === undefined || (pid === `${process.pid}` ? !own : existsSync(`/proc/${pid}`))) continue;
      try {
        removeGroup(join(hierarchy, name));
      } catch (error) {
        // The kernel needs a moment to clean up killed processes.
        left.push(`${join(hierarchy, name)}: ${(error as Error).message}`);
      }
    }
  }
  return left;
}

/** Direct children of a process. */
export function childrenOf(pid: number): number[] {
  try {
    const text = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8");
    return text.split(" ").filter(Boolean).map(Number);
  } catch {
    return [];
  }
}
