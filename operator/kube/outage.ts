import type { Logger } from "pino";
import type { ApiError } from "./error.ts";

/** Problem of the API server as a whole; undefined if the error concerns one resource. */
function serverProblem({ code, reason }: ApiError): string | undefined {
  if (reason === "NoCredentials") return "no credentials for the API server, retrying";
  if (reason === "Unreachable" || (code === 0 && reason === "Timeout")) return "cannot reach the API server, retrying";
  if (code === 401) return "the API server rejects the credentials, retrying";
  return code >= 500 ? "the API server fails, retrying" : undefined;
}

/** Logs a problem of the API server once for all reflectors. */
export class Outage {
  readonly #log: Logger;
  #problem: string | undefined;

  constructor(log: Logger) {
    this.#log = log;
  }

  /** Logs an error that is not specific to one resource. Returns whether it did. */
  covers(error: ApiError): boolean {
    const problem = serverProblem(error);
    if (problem === undefined) return false;
    if (problem !== this.#problem) this.#log.warn({ reason: error.message }, problem);
    this.#problem = problem;
    return true;
  }

  /** Ends the outage: the API server has answered. */
  over(): void {
    if (this.#problem === undefined) return;
    this.#problem = undefined;
    this.#log.info("the API server answers again");
  }
}
