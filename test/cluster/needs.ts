import { readFileSync } from "node:fs";
import { HELMS, helmMissing, helmsMissing } from "../chart/helm.ts";
import { namespaceMissing } from "../harness/namespace.ts";
import { ENVOY, installed, type Kind, NODE, PYTHON, SMOKESCREEN } from "../senders/install.ts";
import { controlPlaneMissing, planeTools } from "./control-plane.ts";
import { CLUSTER_TOOLS, clusterMissing } from "./node/cluster.ts";
import { ipsetMissing } from "./node/machine.ts";
import { absentTools, toolsMissing } from "./tools.ts";

/** The tools of test files, which the runner builds before the first test: a build takes longer than a test may. */

interface Check {
  /** The call in a test file that decides whether to skip. */
  call: string;
  /** Not null: those tests are skipped here and need no tools. */
  missing(): string | null;
  tools: readonly string[];
}

const NODES = { kwokNodes: 1 };
const CHECKS: readonly Check[] = [
  { call: "controlPlaneMissing(", missing: () => controlPlaneMissing(NODES), tools: planeTools(NODES) },
  { call: "clusterMissing(", missing: () => namespaceMissing() ?? clusterMissing(), tools: CLUSTER_TOOLS },
  { call: "helmMissing(", missing: helmMissing, tools: ["helm"] },
  { call: "helmsMissing(", missing: helmsMissing, tools: HELMS },
  {
    call: 'toolsMissing(["kube-router"])',
    missing: () => namespaceMissing() ?? clusterMissing() ?? ipsetMissing() ?? toolsMissing(["kube-router"]),
    tools: ["kube-router"],
  },
  { call: 'toolsMissing(["cilium-crd"])', missing: () => toolsMissing(["cilium-crd"]), tools: ["cilium-crd"] },
  { call: 'toolsMissing(["actionlint"])', missing: () => toolsMissing(["actionlint"]), tools: ["actionlint"] },
  {
    call: 'toolsMissing(["prometheus"])',
    missing: () => controlPlaneMissing(NODES) ?? toolsMissing(["prometheus"]),
    tools: ["prometheus"],
  },
  {
    call: 'toolsMissing(["read-dashboard"])',
    missing: () => toolsMissing(["read-dashboard"]),
    tools: ["read-dashboard"],
  },
  { call: 'toolsMissing(["promtool"])', missing: () => toolsMissing(["promtool"]), tools: ["promtool"] },
];

/** Files that install packages into the cache, and what they install. */
const PACKAGES: readonly { folder: string; kinds: readonly Kind[] }[] = [
  { folder: "test/senders/", kinds: [NODE, PYTHON] },
  { folder: "test/mesh/", kinds: [ENVOY] },
  { folder: "test/proxy/chain-proxies", kinds: [SMOKESCREEN] },
];

/** The packages of these test files that are not installed. Files that run beside each other must not both install them. */
export const packagesToGet = (files: readonly string[]): Kind[] =>
  PACKAGES.filter(({ folder }) => files.some((file) => file.includes(folder)))
    .flatMap(({ kinds }) => kinds)
    .filter((kind) => installed(kind) === null);

/** The tools of these test files, according to the checks that they call. */
export function toolsOf(files: readonly string[]): { tools: string[]; checks: readonly Check[] } {
  const texts = files.map((file) => readFileSync(file, "utf8"));
  const checks = CHECKS.filter(({ call }) => texts.some((text) => text.includes(call)));
  return { checks, tools: [...new Set(checks.flatMap(({ tools }) => tools))] };
}

/** The missing ones that can be built, unless the tests that need them are skipped anyway. */
export function toolsToGet(files: readonly string[]): string[] {
  const { tools, checks } = toolsOf(files);
  if (absentTools(tools).length === 0) return [];
  return [...new Set(checks.filter(({ missing }) => missing() === null).flatMap((check) => check.tools))];
}
