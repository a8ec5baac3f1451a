import { spawnSync } from "node:child_process";
import { accessSync, constants, readFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { envtestArchive } from "./envtest.ts";
import { buildTool } from "./tools-build.ts";

/** A program of the test cluster, and the pinned Go module that it is built from. */
export interface Tool {
  name: string;
  /** Folder below `tools/` whose go.mod pins the version, and the name of its cache folder. */
  module: string;
  /** The module whose version is the program's. */
  path: string;
  /** What `go build` builds. */
  package: string;
  /** What it is for, in a few words. */
  purpose: string;
}

const kubernetes = (name: string, purpose: string): Tool => ({
  name,
  module: "kubernetes",
  path: "k8s.io/kubernetes",
  package: `k8s.io/kubernetes/cmd/${name}`,
  purpose,
});

/** Every program that tests may ask for, the cheapest builds first. */
export const TOOLS: readonly Tool[] = [
  {
    name: "etcd",
    module: "etcd",
    path: "go.etcd.io/etcd/server/v3",
    package: "go.etcd.io/etcd/server/v3",
    purpose: "the API server's store",
  },
  kubernetes("kube-apiserver", "the Kubernetes API"),
  kubernetes("kubectl", "its command line"),
  kubernetes("kube-controller-manager", "Deployments, garbage collection, tokens"),
  kubernetes("kube-scheduler", "pods to nodes"),
  {
    name: "kwok",
    module: "kwok",
    path: "sigs.k8s.io/kwok",
    package: "sigs.k8s.io/kwok/cmd/kwok",
    purpose: "nodes and pods without containers",
  },
  {
    name: "helm",
    module: "helm",
    path: "helm.sh/helm/v3",
    package: "helm.sh/helm/v3/cmd/helm",
    purpose: "installs the chart",
  },
  kubernetes("kubelet", "real nodes"),
  kubernetes("kube-proxy", "Services on real nodes"),
  {
    name: "coredns",
    module: "coredns",
    path: "github.com/coredns/coredns",
    package: "github.com/coredns/coredns",
    purpose: "names in real pods",
  },
  {
    name: "kube-router",
    module: "kube-router",
    path: "github.com/cloudnativelabs/kube-router/v2",
    package: "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router",
    purpose: "enforces NetworkPolicies on real nodes",
  },
];

const MODULES = new URL("tools/", import.meta.url).pathname;

/** The tool of this name. @throws when there is none */
export function toolNamed(name: string): Tool {
  const tool = TOOLS.find((one) => one.name === name);
  if (tool === undefined) throw new Error(`no tool is called ${name}: ${TOOLS.map((one) => one.name).join(", ")}`);
  return tool;
}

/** The folder of the Go module that pins a tool. */
export const moduleFolder = (tool: Tool): string => join(MODULES, tool.module);

/** The version that go.mod pins, such as v1.36.3. */
export function toolVersion(tool: Tool): string {
  const text = readFileSync(join(moduleFolder(tool), "go.mod"), "utf8");
  const match = new RegExp(`^(?:require)?\\s+${tool.path.replaceAll(".", "\\.")} (v\\S+)`, "m").exec(text);
  if (match === null) throw new Error(`${moduleFolder(tool)}/go.mod does not require ${tool.path}`);
  return match[1]!;
}

/** Where a built tool is kept, outside of the tree, so that a fresh clone need not build it again. */
export function cachedPath(tool: Tool): string {
  const cache = process.env.XDG_CACHE_HOME || join(homedir(), ".cache");
  return join(cache, "outrider/tools", `${tool.module}-${toolVersion(tool)}`, tool.name);
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** Where a tool is without building it: `KUBEBUILDER_ASSETS`, then the cache; null when it is in neither. */
export function presentTool(name: string): string | null {
  const tool = toolNamed(name);
  const assets = process.env.KUBEBUILDER_ASSETS;
  const places = [...(assets ? [join(assets, name)] : []), cachedPath(tool)];
  return places.find(isExecutable) ?? null;
}

/** Whether tools can be built here. Asked in a module, an older Go fetches the version that the module wants, or fails. */
export const hasGo = (): boolean => spawnSync("go", ["version"], { cwd: join(MODULES, "etcd") }).status === 0;

/**
 * The path of a tool. One that is missing is built with Go, or, without Go, taken from envtest's archive where the user
 * gave its digest; both take time and say so on stderr.
 * @throws when it cannot be had; the message says what to do
 */
export async function findTool(name: string): Promise<string> {
  const present = presentTool(name);
  if (present !== null) return present;
  const tool = toolNamed(name);
  const say = (line: string) => process.stderr.write(`${line}\n`);
  if (hasGo()) await buildTool(tool, toolVersion(tool), moduleFolder(tool), cachedPath(tool), say);
  else await envtestArchive(tool, toolVersion(tool), cachedPath(tool), say);
  return cachedPath(tool);
}

/** Why these tools cannot be had here; null when they are there, or can be built. */
export function toolsMissing(names: readonly string[]): string | null {
  if (hasGo()) return null;
  const missing = names.filter((name) => presentTool(name) === null);
  if (missing.length === 0) return null;
  return `needs Go >= 1.26, or KUBEBUILDER_ASSETS with ${missing.join(", ")}`;
}
