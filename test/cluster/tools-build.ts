import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync } from "node:fs";
import { dirname } from "node:path";
import type { Tool } from "./tools.ts";

/** Time limit of one build in seconds; the API server takes five minutes on two cores. */
const BUILD_LIMIT_SECONDS = 45 * 60;
const SAY_EVERY_MS = 30_000;
/** A build takes all cores: other programs of the machine come first. */
const NICE = ["nice", "-n", "19"];

/**
 * Holds the lock while it runs (the kernel releases it with its holder), checks again, writes to another name and
 * renames. $1 lock, $2 result, $3... the command without its output.
 */
const script = ({ usable, write }: { usable: string; write: string }) => `
exec 9>"$1"; out=$2; shift 2
flock -n 9 || { echo "another process builds it: waiting" >&2; flock 9; }
if [ ${usable} "$out" ]; then exit 0; fi
${write} && mv "$out.new" "$out"
`;
const BUILD = { usable: "-x", write: `"$@" -o "$out.new" "$PACKAGE"` };
/** The command prints JSON with the folder of the module, or with an error. It verifies the module by go.sum. */
const COPY = {
  usable: "-r",
  write: `answer=$("$@") || { echo "$answer" >&2; exit 1; }
dir=$(echo "$answer" | sed -n 's/^.*"Dir": "\\(.*\\)",$/\\1/p'); cp "$dir/$PACKAGE" "$out.new"`,
};

/** Values that the linker writes into a binary: Kubernetes reports its version from there. */
function ldflags(tool: Tool, version: string): string {
  if (tool.module !== "kubernetes") return "-s -w";
  const [major, minor] = version.slice(1).split(".");
  const stamp = "k8s.io/component-base/version";
  return `-s -w -X ${stamp}.gitVersion=${version} -X ${stamp}.gitMajor=${major} -X ${stamp}.gitMinor=${minor}`;
}

/** The command that builds a tool, or that downloads the module of a file. Both print progress and errors on stderr. */
function goCommand(tool: Tool, version: string, module: string): string[] {
  if (tool.file) return ["go", "-C", module, "mod", "download", "-json", `${tool.path}@${version}`];
  // Without the state of git, which fails if the clone belongs to another user (`sudo make demo`).
  const flags = ["-C", module, "-mod=readonly", "-buildvcs=false", "-trimpath", "-ldflags", ldflags(tool, version)];
  if (tool.tags !== undefined) flags.push("-tags", tool.tags);
  return ["go", "build", ...flags];
}

/**
 * Builds a tool into the cache, or copies a file of a module there. Several processes that need the same one build it
 * once. @param say gets a line at start, every half minute, and at the end
 */
export async function buildTool(
  tool: Tool,
  version: string,
  module: string,
  out: string,
  say: (line: string) => void,
): Promise<void> {
  mkdirSync(dirname(out), { recursive: true });
  const began = Date.now();
  const seconds = () => Math.round((Date.now() - began) / 1000);
  const label = `${tool.name} ${version}`;
  const [verb, noun] = tool.file ? ["downloading", "download"] : ["building", "build"];
  say(`${label} (${tool.purpose}): ${verb} with Go`);
  // In the foreground, so that Ctrl-C also ends the build.
  const limit = ["timeout", "--foreground", `${BUILD_LIMIT_SECONDS}`];
  const command = [...limit, ...NICE, ...goCommand(tool, version, module)];
  const child = spawn("sh", ["-c", script(tool.file ? COPY : BUILD), "build", `${out}.lock`, out, ...command], {
    // Own programs run in images without libraries.
    env: { ...process.env, PACKAGE: tool.package, ...(tool.own ? { CGO_ENABLED: "0" } : {}) },
    stdio: ["ignore", "ignore", "pipe"],
  });
  let errors = "";
  child.stderr.on("data", (chunk: Buffer) => {
    const text = String(chunk);
    if (text.startsWith("another process")) say(`${label}: ${text.trim()}`);
    errors = (errors + text).slice(-4000);
  });
  const timer = setInterval(() => say(`${label}: still ${verb}, ${seconds()} s`), SAY_EVERY_MS);
  const [status] = (await once(child, "close")) as [number | null];
  clearInterval(timer);
  if (status !== 0) throw new Error(`${label}: the ${noun} failed (exit status ${status}):\n${errors}`);
  say(`${label}: done in ${seconds()} s`);
}
