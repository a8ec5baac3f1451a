import type { Logger } from "pino";
import type { ApiError } from "./error.ts";

/** What is wrong with the API server as a whole; undefined: with one resource alone. */
function problemOf({ code, reason }: ApiError): string | undefined {
  if (reason === "NoCredentials") return "there are no credentials for the API server, tried again";
  if (reason === "Unreachable" || (code === 0 && reason === "Timeout"))
    return "cannot reach the API server, tried again";
  if (code === 401) return "the API server does not take the credentials, tried again";
  return code >= 500 ? "the API server fails, tried again" : undefined;
}

/** Says once for all reflectors what would be the same line for each. */
export class Outage {
  readonly #log: Logger;
  #problem: string | undefined;

  constructor(log: Logger) {
    this.#log = log;
  }

  /** True: this failure is not one resource's, and it was said. */
  covers(error: ApiError): boolean {
    const problem = problemOf(error);
    if (problem === undefined) return false;
    if (problem !== this.#problem) this.#log.warn({ reason: error.message }, problem);
    this.#problem = problem;
    return true;
  }

  /** Something was heard of the API server. */
  over(): void {
    if (this.#problem === undefined) return;
    this.#problem = undefined;
    this.#log.info("the API server answers again");
  }
}
