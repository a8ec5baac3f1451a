import { makeLog } from "./cli/log.ts";
import { printError } from "./cli/print.ts";
import { UsageError } from "./cli/usage-error.ts";
import { nearest, PolicyError } from "./policy/rules.ts";
import { version } from "./version.ts";

type Run = (argv: string[]) => Promise<number>;

/** Loads a command when it runs: the code of the others takes time to start, and memory of a proxy. */
const COMMANDS: Readonly<Record<string, () => Promise<Run>>> = {
  proxy: async () => (await import("./run.ts")).runProxy,
  explain: async () => (await import("./tools/explain.ts")).runExplain,
  check: async () => (await import("./tools/check.ts")).runCheck,
  diff: async () => (await import("./tools/diff.ts")).runDiff,
  import: async () => (await import("./tools/import.ts")).runImport,
  echo: async () => (await import("./tools/echo.ts")).runEcho,
  verify: async () => (await import("./tools/verify.ts")).runVerify,
  health: async () => (await import("./tools/health.ts")).runHealth,
};

const HELP = `Usage: outrider COMMAND [options]

  operator runs fleets of proxies from EgressPolicies on Kubernetes
  proxy    forward proxy that connects only to targets that its policy allows
  explain  print the proxy's decision for a target, and the reason
  check    validate a policy file
  diff     compare what two policies allow
  import   convert a Smokescreen or mole acl.yaml to an EgressPolicy
  echo     HTTP server that answers callers with their address
  verify   check through echo servers which address a proxy sends from
  health   check whether a proxy on this machine is alive
  get      print the fleets of a cluster: conditions, addresses, proxies, pods
  egress   the kubectl plugin: status, explain, ips, verify and top of a running fleet

outrider COMMAND --help prints the options of a command. outrider --version prints the version.`;

/** Exit status of wrong usage and bad input. */
const EXIT_USAGE = 2;

async function main(argv: string[]): Promise<number> {
  const [command, ...rest] = argv;
  if (command === "--version") {
    console.log(version());
    return 0;
  }
  if (command === undefined || command === "--help" || command === "-h" || command === "help") {
    (command === undefined ? console.error : console.log)(HELP);
    return command === undefined ? EXIT_USAGE : 0;
  }
  const load = Object.hasOwn(COMMANDS, command) ? COMMANDS[command] : undefined;
  if (load !== undefined) return (await load())(rest);
  const meant = nearest(command, ["operator", "get", "egress", ...Object.keys(COMMANDS)]);
  throw new UsageError(`unknown command "${command}"${meant ? `; did you mean ${meant}?` : "; see --help"}`);
}

/** Exit status of an internal error (EX_SOFTWARE of sysexits.h). */
const EXIT_INTERNAL = 70;

/**
 * The only handler of unexpected errors, including rejected promises (Node raises them here as well). These are bugs of
 * this program and leave its state unknown, so it logs the stack and exits. A supervisor restarts it.
 */
process.on("uncaughtException", (error: unknown, origin) => {
  const err = error instanceof Error ? error : new Error(String(error));
  makeLog("fatal").fatal({ err, origin }, "internal error; exiting");
  process.exit(EXIT_INTERNAL);
});

main(process.argv.slice(2)).then(
  (status) => {
    process.exitCode = status;
    // A server must not wait for a forgotten timer after its shutdown. All output is flushed by now.
    if (process.argv[2] === "proxy") process.exit();
  },
  (error: unknown) => {
    if (error instanceof UsageError || error instanceof PolicyError) {
      printError(error.message);
      process.exit(EXIT_USAGE);
    }
    throw error;
  },
);
