/** Wrong usage or input: one line on stderr, and exit status 2. */
export class UsageError extends Error {
  readonly code = "USAGE";
}
