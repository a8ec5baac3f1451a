import { spawn } from "node:child_process";
import { parseArgs } from "node:util";
import { finish } from "../harness/finish.ts";
import { COMPAT_FILES } from "./compat-files.ts";
import { type Result, resultOf, tableOf } from "./compat-result.ts";
import { controlPlaneMissing, planeTools } from "./control-plane.ts";
import { getTools, OLDER_MINOR, olderMinors, toolNamed, toolVersion } from "./tools.ts";

/** `make compat`: runs the tests of the control plane with older minors of Kubernetes. */

const HELP = `Usage: make compat [ARGS="OPTIONS"]

Runs ${COMPAT_FILES.length} test files with each older minor of Kubernetes (${olderMinors().join(", ")}), and prints a table. The first run
builds API server, controller manager, scheduler and kubectl of each with Go (5 to 10 minutes each on two idle cores).

  --only MINOR    only this minor; repeatable
  --file TEXT     only files whose path contains this; repeatable
  --minutes N     limit of the tests, without the builds (default: 90)
  --help          print this help
`;

const NODES = { kwokNodes: 1 };
const RUNNER = new URL("../run.ts", import.meta.url).pathname;
const MINUTE_MS = 60_000;

/** Builds the missing programs of the chosen minor. Returns whether all exist; an error is printed. */
async function areBuilt(): Promise<boolean> {
  let all = true;
  await getTools(planeTools(NODES), console.log, (_, { message }) => {
    console.log(message);
    all = false;
  });
  return all;
}

/** Runs a file with the chosen minor. */
async function runFile(file: string, limitMs: number): Promise<Result> {
  // With a signal at the end of this process: Ctrl-C does not reach the process group that `timeout` makes.
  const limited = ["--pdeathsig=TERM", "timeout", "--kill-after=20", `${Math.ceil(limitMs / 1000)}`];
  const command = [...limited, process.execPath, RUNNER, file];
  const child = spawn("setpriv", command, { stdio: ["ignore", "pipe", "pipe"] });
  child.stdout.pipe(process.stdout, { end: false });
  child.stderr.pipe(process.stderr, { end: false });
  return resultOf(await finish(child));
}

async function main(): Promise<number> {
  const list = { type: "string", multiple: true, default: [] as string[] } as const;
  const { values } = parseArgs({
    options: {
      only: list,
      file: list,
      minutes: { type: "string", default: "90" },
      help: { type: "boolean", default: false },
    },
  });
  if (values.help) {
    console.log(HELP);
    return 0;
  }
  const minors = values.only.length > 0 ? values.only : olderMinors();
  const files = COMPAT_FILES.filter(
    (file) => values.file.length === 0 || values.file.some((part) => file.includes(part)),
  );
  const wrong = minors.find((minor) => !olderMinors().includes(minor));
  const minutes = Number(values.minutes);
  if (wrong !== undefined || files.length === 0 || !(minutes > 0)) {
    const known = olderMinors().join(", ");
    console.error(`compat: --only must be one of ${known}; --file must be part of a path; --minutes must be a number`);
    return 2;
  }
  const missing = controlPlaneMissing(NODES);
  if (missing !== null) {
    console.error(`compat: ${missing}`);
    return 1;
  }
  return compare(minors, files, minutes * MINUTE_MS);
}

/** Exit status: 0 if every file ran with every minor, and no test failed. */
async function compare(minors: readonly string[], files: readonly string[], limitMs: number): Promise<number> {
  const results = new Map<string, Map<string, Result>>();
  let spentMs = 0;
  for (const minor of minors) {
    process.env[OLDER_MINOR] = minor;
    const version = toolVersion(toolNamed("kube-apiserver"));
    const column = new Map<string, Result>();
    results.set(version, column);
    if (!(await areBuilt())) continue;
    for (const file of files) {
      if (spentMs >= limitMs) break;
      const began = Date.now();
      console.log(`\n== Kubernetes ${version}: ${file}`);
      column.set(file, await runFile(file, limitMs - spentMs));
      spentMs += Date.now() - began;
    }
  }
  console.log(`\n${tableOf(files, results)}`);
  const all = [...results.values()].flatMap((column) => [...column.values()]);
  const sum = (key: keyof Result) => all.reduce((total, result) => total + result[key], 0);
  const absent = minors.length * files.length - all.length;
  const rest = absent > 0 ? `, ${absent} files not run` : "";
  const spent = `${(spentMs / MINUTE_MS).toFixed(1)} minutes`;
  console.log(
    `\n${sum("passed")} passed, ${sum("failed")} failed, ${sum("skipped")} skipped${rest}; tests took ${spent}`,
  );
  return sum("failed") > 0 || absent > 0 ? 1 : 0;
}

process.exitCode = await main();
