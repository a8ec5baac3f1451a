import { basename } from "node:path";
import { UsageError } from "../../proxy/cli/usage-error.ts";
import { nearest } from "../../proxy/policy/rules.ts";
import { runExplain } from "./explain.ts";
import { EXIT, Failure, failureOf } from "./failure.ts";
import { runGet } from "./get.ts";
import { runIps } from "./ips.ts";
import { safe } from "./text.ts";
import { runTop } from "./top.ts";
import { runVerify } from "./verify.ts";

const COMMANDS: Readonly<Record<string, (argv: readonly string[]) => Promise<number>>> = {
  status: (argv) => runGet(argv, "kubectl egress status"),
  explain: runExplain,
  ips: runIps,
  verify: runVerify,
  top: runTop,
};

const HELP = `Usage: kubectl egress COMMAND [options]

  status [POLICY]                  fleets with their conditions, addresses, proxies, pods and events (outrider get)
  explain TARGET --policy POLICY   decision of a running proxy for a target, step by step
  ips POLICY                       published addresses for webhook receivers
  verify POLICY                    make the proxies prove their source addresses now
  top POLICY                       tunnels, requests a second, refusals by reason

kubectl egress COMMAND --help prints the options of a command. All of them use your kubeconfig and your rights.`;

async function runEgress(argv: readonly string[]): Promise<number> {
  const [command, ...rest] = argv;
  if (command === undefined || command === "--help" || command === "-h" || command === "help") {
    (command === undefined ? console.error : console.log)(HELP);
    return command === undefined ? EXIT.usage : EXIT.ok;
  }
  const run = Object.hasOwn(COMMANDS, command) ? COMMANDS[command] : undefined;
  if (run !== undefined) return run(rest);
  const meant = nearest(command, Object.keys(COMMANDS));
  throw new UsageError(`unknown command "${safe(command, 100)}"${meant ? `; did you mean ${meant}?` : "; see --help"}`);
}

/** The arguments of the plugin follow its name; those of `outrider` begin with the command. */
function runTools([, program = "", ...argv]: readonly string[]): Promise<number> {
  if (basename(program).startsWith("kubectl-egress")) return runEgress(argv);
  const [command, ...rest] = argv;
  return command === "get" ? runGet(rest, "outrider get") : runEgress(rest);
}

// `kubectl egress status | head` is no error.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code !== "EPIPE") throw error;
  process.exit(EXIT.ok);
});

// Nothing is left to wait for, and the command has no answer: that must not look like success.
process.once("beforeExit", () => {
  console.error("outrider: no answer");
  process.exit(EXIT.failed);
});

runTools(process.argv).then(
  // Kept connections to the API server would delay the end.
  (status) => process.stdout.write("", () => process.exit(status)),
  (error: unknown) => {
    const known = failureOf(error);
    const isExpected = known instanceof UsageError || known instanceof Failure;
    // Such as an object of the API server without a field that each has. The stack may quote it.
    const text = isExpected ? known.message : `unexpected answer, or a bug: ${(known as Error).stack}`;
    console.error(`outrider: ${safe(text.replace(/\s*\n\s*/g, " "))}`);
    process.exit(known instanceof UsageError ? EXIT.usage : EXIT.failed);
  },
);
