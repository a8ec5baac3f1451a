import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { accessSync, constants, globSync, readdirSync, readFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { type Part, startProgress } from "../../proxy/cli/progress.ts";
import { envtestArchive } from "./envtest.ts";
import { buildTool } from "./tools-build.ts";

/** A program of the test cluster, and the pinned Go module that it is built from. */
export interface Tool {
  name: string;
  /** Folder below `tools/` whose go.mod pins the version; the name of its cache folder. */
  module: string;
  /**
   * Folder of the sources below `test/`, of a program of this repository: its version is a hash of them, and
   * `KUBEBUILDER_ASSETS` is not searched for it.
   */
  own?: string;
  /** The module whose version is the program's. */
  path: string;
  /** The package for `go build`; of a {@link file}, its path in the module. */
  package: string;
  /** A file of the module instead of a program. It is copied. */
  file?: true;
  /** Build tags, separated by commas. */
  tags?: string;
  /** Its purpose, in a few words. */
  purpose: string;
  /**
   * Expected time of its build, for the progress on a terminal: an estimate for two cores, after the tools before it,
   * whose packages Go has in its cache. Most are not measured one by one.
   */
  buildSeconds: number;
}

const kubernetes = (name: string, purpose: string, buildSeconds: number): Tool => ({
  name,
  module: "kubernetes",
  path: "k8s.io/kubernetes",
  package: `k8s.io/kubernetes/cmd/${name}`,
  purpose,
  buildSeconds,
});

/** Every program of the tests, the fastest builds first. */
export const TOOLS: readonly Tool[] = [
  {
    name: "sender",
    module: "sender",
    own: "cluster/node/sender",
    path: "outrider.dev/test/cluster/node/sender",
    package: "outrider.dev/test/cluster/node/sender",
    purpose: "sends webhooks as Convoy does",
    buildSeconds: 40,
  },
  {
    name: "read-dashboard",
    module: "read-dashboard",
    own: "chart/read-dashboard",
    path: "outrider.dev/test/chart/read-dashboard",
    package: "outrider.dev/test/chart/read-dashboard",
    purpose: "reads a dashboard as Grafana does",
    buildSeconds: 20,
  },
  {
    name: "cilium-crd",
    module: "cilium",
    path: "github.com/cilium/cilium",
    package: "pkg/k8s/apis/cilium.io/client/crds/v2/ciliumegressgatewaypolicies.yaml",
    file: true,
    purpose: "the CRD of Cilium's egress gateway",
    buildSeconds: 10,
  },
  {
    name: "etcd",
    module: "etcd",
    path: "go.etcd.io/etcd/server/v3",
    package: "go.etcd.io/etcd/server/v3",
    purpose: "the API server's store",
    buildSeconds: 150,
  },
  kubernetes("kube-apiserver", "the Kubernetes API", 300),
  kubernetes("kubectl", "its command line", 45),
  kubernetes("kube-controller-manager", "Deployments, garbage collection, tokens", 90),
  kubernetes("kube-scheduler", "pods to nodes", 30),
  {
    name: "kwok",
    module: "kwok",
    path: "sigs.k8s.io/kwok",
    package: "sigs.k8s.io/kwok/cmd/kwok",
    purpose: "nodes and pods without containers",
    buildSeconds: 120,
  },
  {
    name: "actionlint",
    module: "actionlint",
    path: "github.com/rhysd/actionlint",
    package: "github.com/rhysd/actionlint/cmd/actionlint",
    purpose: "checks the workflows of GitHub",
    buildSeconds: 7,
  },
  {
    name: "helm",
    module: "helm",
    path: "helm.sh/helm/v3",
    package: "helm.sh/helm/v3/cmd/helm",
    purpose: "installs the chart",
    buildSeconds: 60,
  },
  {
    name: "promtool",
    module: "promtool",
    path: "github.com/prometheus/prometheus",
    package: "github.com/prometheus/prometheus/cmd/promtool",
    // Without the clients of clouds, which double the build.
    tags: "remove_all_sd",
    purpose: "tests alerts",
    buildSeconds: 120,
  },
  {
    name: "prometheus",
    module: "promtool",
    path: "github.com/prometheus/prometheus",
    package: "github.com/prometheus/prometheus/cmd/prometheus",
    tags: "remove_all_sd",
    purpose: "answers the queries of the dashboard",
    buildSeconds: 60,
  },
  {
    name: "helm4",
    module: "helm4",
    path: "helm.sh/helm/v4",
    package: "helm.sh/helm/v4/cmd/helm",
    purpose: "installs the chart as Helm 4",
    buildSeconds: 30,
  },
  kubernetes("kubelet", "real nodes", 90),
  kubernetes("kube-proxy", "Services on real nodes", 20),
  {
    name: "coredns",
    module: "coredns",
    path: "github.com/coredns/coredns",
    package: "github.com/coredns/coredns",
    purpose: "names in real pods",
    buildSeconds: 120,
  },
  {
    name: "kube-router",
    module: "kube-router",
    path: "github.com/cloudnativelabs/kube-router/v2",
    package: "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router",
    purpose: "enforces NetworkPolicies on real nodes",
    buildSeconds: 60,
  },
];

const MODULES = new URL("tools/", import.meta.url).pathname;

/** The tool of this name. @throws when there is none */
export function toolNamed(name: string): Tool {
  const tool = TOOLS.find((one) => one.name === name);
  if (tool === undefined) throw new Error(`no tool is called ${name}: ${TOOLS.map((one) => one.name).join(", ")}`);
  return tool;
}

/**
 * Environment variable with an older minor of Kubernetes, such as 1.34, for the programs of the control plane. Empty: the
 * version of `tools/kubernetes`. {@link presentTool} does not search `KUBEBUILDER_ASSETS` for them then.
 */
export const OLDER_MINOR = "KUBERNETES";
const OLDER = "kubernetes-";

/** The older minors that a `tools/kubernetes-MINOR` pins, in ascending order. */
export const olderMinors = (): string[] =>
  readdirSync(MODULES).flatMap((folder) => (folder.startsWith(OLDER) ? [folder.slice(OLDER.length)] : []));

/** The older minor that is chosen, if the tool is of Kubernetes; undefined: none. @throws when no folder pins it */
function olderMinor(tool: Tool): string | undefined {
  const minor = process.env[OLDER_MINOR];
  if (!minor || tool.module !== "kubernetes") return undefined;
  const known = olderMinors();
  if (known.includes(minor)) return minor;
  throw new Error(`${OLDER_MINOR}=${minor} is not pinned: use ${known.join(", ")}, or unset it`);
}

/** The folder of the Go module that pins a tool, or of its source. */
export function moduleFolder(tool: Tool): string {
  if (tool.own) return new URL(`../${tool.own}/`, import.meta.url).pathname;
  const minor = olderMinor(tool);
  return join(MODULES, minor === undefined ? tool.module : OLDER + minor);
}

/** The version that go.mod pins, such as v1.36.3; for an own program `source-` and a hash of its sources. */
export function toolVersion(tool: Tool): string {
  if (tool.own) {
    const hash = createHash("sha256");
    const folder = moduleFolder(tool);
    for (const file of globSync(["*.go", "go.*"], { cwd: folder }).sort()) {
      hash.update(`${file}\0`).update(readFileSync(join(folder, file)));
    }
    return `source-${hash.digest("hex").slice(0, 12)}`;
  }
  const text = readFileSync(join(moduleFolder(tool), "go.mod"), "utf8");
  const match = new RegExp(`^(?:require)?\\s+${tool.path.replaceAll(".", "\\.")} (v\\S+)`, "m").exec(text);
  if (match === null) throw new Error(`${moduleFolder(tool)}/go.mod does not require ${tool.path}`);
  return match[1]!;
}

/** The cache path of a built tool, outside the tree, so that a new clone need not build it again. */
export function cachedPath(tool: Tool): string {
  const cache = process.env.XDG_CACHE_HOME || join(homedir(), ".cache");
  return join(cache, "outrider/tools", `${tool.module}-${toolVersion(tool)}`, tool.name);
}

/** Whether the user can run a file or, if it is no program, read it. */
function isUsable(path: string, { file }: Tool): boolean {
  try {
    accessSync(path, file ? constants.R_OK : constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** The path of an existing tool: in `KUBEBUILDER_ASSETS`, then in the cache; null when it is in neither. */
export function presentTool(name: string): string | null {
  const tool = toolNamed(name);
  const assets = process.env.KUBEBUILDER_ASSETS;
  const searched = assets && !tool.own && olderMinor(tool) === undefined;
  const places = [...(searched ? [join(assets, name)] : []), cachedPath(tool)];
  return places.find((place) => isUsable(place, tool)) ?? null;
}

/** Whether tools can be built here. In a module, an older Go fetches the version that the module requires, or fails. */
export const hasGo = (): boolean => spawnSync("go", ["version"], { cwd: join(MODULES, "etcd") }).status === 0;

/**
 * Environment variable with the reason why programs must not be built or downloaded now, such as a network namespace
 * without a route. A build would fail there late, with a message about DNS.
 */
export const NO_BUILD = "OUTRIDER_NO_BUILD";

const toStderr = (line: string) => void process.stderr.write(`${line}\n`);

/**
 * The path of a tool. A missing tool is built with Go. Without Go it is taken from envtest's archive, if the user gave
 * its digest. Both take time and report progress to `say` (default: stderr). @throws when it is not available, or must
 * not be built now ({@link NO_BUILD}); the message has the fix
 */
export async function findTool(name: string, say: (line: string) => void = toStderr): Promise<string> {
  const present = presentTool(name);
  if (present !== null) return present;
  const tool = toolNamed(name);
  const reason = process.env[NO_BUILD];
  if (reason) {
    throw new Error(`${name} ${toolVersion(tool)} is missing and is not built now: ${reason}. Fix: run \`make tools\``);
  }
  if (hasGo()) await buildTool(tool, toolVersion(tool), moduleFolder(tool), cachedPath(tool), say);
  else await envtestArchive(tool, toolVersion(tool), cachedPath(tool), say);
  return cachedPath(tool);
}

/** The tools among these that would have to be built, in the order of {@link TOOLS}. */
export const absentTools = (names: readonly string[]): Tool[] =>
  TOOLS.filter(({ name }) => names.includes(name) && presentTool(name) === null);

/** The part of the work of {@link getTools} that gets a tool. */
const partOf = ({ name, file, buildSeconds }: Tool): Part => ({
  name: `${file ? "download" : "build"} ${name}`,
  seconds: buildSeconds,
});

/**
 * Builds the missing tools among these, one after the other: each build takes all cores. Call it before entering a
 * network namespace. Reports the number of the build and the seconds since the start, and shows progress on a
 * terminal; does nothing when all exist.
 * @param failed gets the error of a tool, and the others are still built; default: throw it
 */
export async function getTools(
  names: readonly string[],
  say: (line: string) => void = toStderr,
  failed?: (tool: Tool, error: Error) => void,
): Promise<void> {
  for (const name of names) toolNamed(name);
  const absent = absentTools(names);
  if (absent.length === 0) return;
  const began = Date.now();
  const seconds = () => Math.round((Date.now() - began) / 1000);
  if (!process.env[NO_BUILD]) {
    say(`missing programs of the test cluster: ${absent.map(({ name }) => name).join(", ")}`);
    if (hasGo())
      say("Go builds them once, into a cache outside of this folder. All take 10 to 25 minutes on two cores.");
  }
  const progress = startProgress(absent.map(partOf));
  try {
    for (const [index, tool] of absent.entries()) {
      progress.show(partOf(tool).name);
      const step = `build ${index + 1} of ${absent.length}`;
      try {
        await findTool(tool.name, (line) => {
          progress.clear();
          say(`${step}, ${seconds()} s: ${line}`);
        });
      } catch (error) {
        progress.clear();
        if (failed === undefined) throw error;
        failed(tool, error as Error);
      }
    }
  } finally {
    progress.end();
  }
}

/** The reason why these tools are not available here; null when they exist or can be built. */
export function toolsMissing(names: readonly string[]): string | null {
  if (hasGo()) return null;
  const absent = absentTools(names);
  if (absent.length === 0) return null;
  const own = absent.find((tool) => tool.own);
  if (own !== undefined) return `needs Go >= 1.26 (https://go.dev/dl), to build ${own.name}, which ${own.purpose}`;
  return `needs Go >= 1.26 (https://go.dev/dl), or KUBEBUILDER_ASSETS with ${absent.map(({ name }) => name).join(", ")}`;
}
