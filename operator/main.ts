import { printError } from "../proxy/cli/print.ts";
import { UsageError } from "../proxy/cli/usage-error.ts";
import { runOperator } from "./run.ts";

/** Exit status of wrong usage. */
const EXIT_USAGE = 2;

// The first argument is the command `operator`, by which bin/outrider selected this program.
runOperator(process.argv.slice(3)).then(
  (status) => process.exit(status),
  (error: unknown) => {
    if (!(error instanceof UsageError)) throw error;
    printError(error.message);
    process.exit(EXIT_USAGE);
  },
);
