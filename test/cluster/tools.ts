import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, openSync, readFileSync, renameSync, rmSync, writeSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

/**
 * The programs that a control plane is made of: from `KUBEBUILDER_ASSETS`, else from a cache outside of the tree, else
 * built from the Go modules that `tools/` pins.
 */

const MODULES = new URL("tools/", import.meta.url).pathname;
/** What the version is read from: the line of this module in go.mod. */
const VERSIONED: Readonly<Record<string, string>> = {
  etcd: "go.etcd.io/etcd/server/v3",
  kubernetes: "k8s.io/kubernetes",
  kwok: "sigs.k8s.io/kwok",
  helm: "helm.sh/helm/v3",
  coredns: "github.com/coredns/coredns",
};

interface Tool {
  module: string;
  package: string;
  what: string;
}

const kubernetes = (name: string, what: string): [string, Tool] => [
  name,
  { module: "kubernetes", package: `k8s.io/kubernetes/cmd/${name}`, what },
];

/** In the order in which tests come to need them. */
export const TOOLS: ReadonlyMap<string, Tool> = new Map<string, Tool>([
  ["etcd", { module: "etcd", package: "go.etcd.io/etcd/server/v3", what: "the API server's store" }],
  kubernetes("kube-apiserver", "the API server"),
  kubernetes("kubectl", "the command line"),
  kubernetes("kube-controller-manager", "Deployments, garbage collection"),
  kubernetes("kube-scheduler", "pods to nodes"),
  ["kwok", { module: "kwok", package: "sigs.k8s.io/kwok/cmd/kwok", what: "simulated nodes" }],
  ["helm", { module: "helm", package: "helm.sh/helm/v3/cmd/helm", what: "charts" }],
  ["coredns", { module: "coredns", package: "github.com/coredns/coredns", what: "DNS of a real node" }],
  kubernetes("kube-proxy", "Services of a real node"),
  kubernetes("kubelet", "pods of a real node"),
]);

/** A holder of a lock is asked for so often. */
const LOCK_LOOK_MS = 500;

/** The version that go.mod pins. */
export function versionOf(module: string): string {
  const text = readFileSync(join(MODULES, module, "go.mod"), "utf8");
  const line = text.split("\n").find((one) => one.trim().startsWith(`${VERSIONED[module]} v`));
  if (line === undefined) throw new Error(`${module}/go.mod does not name ${VERSIONED[module]}`);
  return line.trim().split(" ")[1]!;
}

function cacheOf(module: string): string {
  const base = process.env.XDG_CACHE_HOME || join(homedir(), ".cache");
  return join(base, "outrider", "tools", `${module}-${versionOf(module)}`);
}

const hasGo = (): boolean => spawnSync("go", ["version"]).status === 0;

function standing(name: string, tool: Tool): string | undefined {
  const given = process.env.KUBEBUILDER_ASSETS;
  const places = [...(given ? [join(given, name)] : []), join(cacheOf(tool.module), name)];
  return places.find((file) => existsSync(file));
}

/** Why these tools cannot be had here; null when they can (perhaps after a build). */
export function toolsMissing(names: readonly string[]): string | null {
  const lacking = names.filter((name) => standing(name, TOOLS.get(name)!) === undefined);
  if (lacking.length === 0 || hasGo()) return null;
  return `needs Go to build ${lacking.join(", ")}, or KUBEBUILDER_ASSETS with them (the archive that setup-envtest unpacks has etcd, kube-apiserver and kubectl)`;
}

/** One build of a tool at a time, over all processes: a lock file with the builder's pid. A dead builder's is taken over. */
async function locked<T>(file: string, work: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      const lock = openSync(file, "wx");
      writeSync(lock, String(process.pid));
      break;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
    }
    const holder = existsSync(file) ? readFileSync(file, "utf8") : "";
    if (holder !== "" && !existsSync(`/proc/${holder}`)) rmSync(file, { force: true });
    else await sleep(LOCK_LOOK_MS);
  }
  try {
    return await work();
  } finally {
    rmSync(file, { force: true });
  }
}

function run(command: string, args: readonly string[]): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: ["ignore", "ignore", "pipe"] });
    let tail = "";
    child.stderr.on("data", (chunk: Buffer) => {
      tail = (tail + chunk).slice(-2000);
    });
    child.once("error", reject);
    child.once("close", (status) => {
      if (status === 0) resolve();
      else reject(new Error(`${command} ${args.join(" ")} ended with ${status}: ${tail}`));
    });
  });
}

async function build(name: string, tool: Tool): Promise<string> {
  const folder = cacheOf(tool.module);
  mkdirSync(folder, { recursive: true });
  const file = join(folder, name);
  return locked(`${file}.lock`, async () => {
    if (existsSync(file)) return file;
    const began = Date.now();
    console.log(`building ${name} ${versionOf(tool.module)} (${tool.what}); the first time it takes minutes`);
    const version = versionOf(tool.module);
    const [, minor] = version.split(".");
    const variables = `k8s.io/component-base/version`;
    const named =
      tool.module === "kubernetes"
        ? ` -X ${variables}.gitVersion=${version} -X ${variables}.gitMajor=1 -X ${variables}.gitMinor=${minor}`
        : "";
    const raw = `${file}.new`;
    const flags = ["-mod=readonly", "-trimpath", "-ldflags", `-s -w${named}`, "-o", raw];
    await run("go", ["build", "-C", join(MODULES, tool.module), ...flags, tool.package]);
    renameSync(raw, file);
    console.log(`built ${name} in ${Math.round((Date.now() - began) / 1000)} s`);
    return file;
  });
}

/** The file of a tool, built now if it is nowhere. @throws Error saying what is needed */
export async function findTool(name: string): Promise<string> {
  const tool = TOOLS.get(name);
  if (tool === undefined) throw new Error(`${name} is no tool of the control plane`);
  const file = standing(name, tool);
  if (file !== undefined) return file;
  const missing = toolsMissing([name]);
  if (missing !== null) throw new Error(missing);
  return build(name, tool);
}

/** A folder of a tool's module, such as kwok's stage files. */
export function moduleFolder(module: string): string {
  const args = ["list", "-m", "-mod=readonly", "-f", "{{.Dir}}", VERSIONED[module]!];
  const { status, stdout, stderr } = spawnSync("go", args, { cwd: join(MODULES, module), encoding: "utf8" });
  if (status !== 0) throw new Error(`go list ${module}: ${stderr}`);
  return stdout.trim();
}

if (process.argv[1] === new URL(import.meta.url).pathname) {
  for (const name of TOOLS.keys()) console.log(`${name}: ${await findTool(name)}`);
}
