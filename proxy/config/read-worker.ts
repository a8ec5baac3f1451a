import { parentPort, workerData } from "node:worker_threads";
import { UsageError } from "../cli/usage-error.ts";
import { type ReadPolicy, readText } from "./read-policy.ts";

/** The worker thread that parses a long policy file (`read-aside.ts`): one text, one answer. */

/** The answer of the thread. The class of an error is lost between threads. */
export type WorkerAnswer = { read: ReadPolicy } | { usage: string };

function answer(): WorkerAnswer {
  try {
    return { read: readText(workerData.text, workerData.config, workerData.identities) };
  } catch (error) {
    if (error instanceof UsageError) return { usage: error.message };
    throw error;
  }
}

parentPort!.postMessage(answer());
