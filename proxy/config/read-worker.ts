import { parentPort, workerData } from "node:worker_threads";
import { UsageError } from "../cli/usage-error.ts";
import { type ReadPolicy, readText } from "./read-policy.ts";

/** The thread that reads a long policy file (`read-aside.ts`): one text, one answer. */

/** What the thread answers. An error's class does not cross threads. */
export type Answer = { read: ReadPolicy } | { usage: string };

function answer(): Answer {
  try {
    return { read: readText(workerData.text, workerData.config) };
  } catch (error) {
    if (error instanceof UsageError) return { usage: error.message };
    throw error;
  }
}

parentPort!.postMessage(answer());
