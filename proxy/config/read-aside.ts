import { Worker } from "node:worker_threads";
import { isExecutable, readAsset } from "../cli/asset.ts";
import { UsageError } from "../cli/usage-error.ts";
import type { Identities } from "../policy/client-warnings.ts";
import type { Config } from "./config.ts";
import { MIB, memoryLimit } from "./memory.ts";
import { type ReadPolicy, readText } from "./read-policy.ts";
import type { WorkerAnswer } from "./read-worker.ts";

/**
 * Limit in characters of a text that is parsed on the main thread: some 10 ms of YAML. A longer one would stall all
 * requests (1 MB: 0.7 s), so a worker thread parses it.
 */
const MAX_AT_ONCE = 16_384;
/**
 * Heap of that thread, in MiB: 8 MiB of YAML need some 500 at most. A file that needs more is an error and does not end
 * the process.
 */
const MAX_HEAP_MIB = 512;
/** The part of the memory limit that this heap may take: in a container of 512 MiB a whole one would have the process killed. */
const HEAP_SHARE = 4;
/** Time for one file, in milliseconds: 8 MiB of YAML take some 10 s on a slow machine. */
const MAX_READ_MS = 60_000;

/** Beside this file in the sources, in the bundle (`bin/image/bundle.ts`), and as an asset of the executable. */
const WORKER = new URL(import.meta.url.endsWith(".ts") ? "./read-worker.ts" : "./read-worker.js", import.meta.url);

function inThread(text: string, config: Config, identities: Identities): Promise<ReadPolicy> {
  return new Promise((resolve, reject) => {
    const heapMiB = Math.min(MAX_HEAP_MIB, Math.ceil(memoryLimit() / HEAP_SHARE / MIB));
    const worker = new Worker(isExecutable() ? readAsset(WORKER) : WORKER, {
      eval: isExecutable(),
      workerData: { text, config, identities },
      resourceLimits: { maxOldGenerationSizeMb: heapMiB },
    });
    const fail = (why: string) => reject(new UsageError(`--policy ${config.policy}: ${why}`));
    const timer = setTimeout(() => {
      fail(`cannot be parsed within ${MAX_READ_MS / 1000} s`);
      void worker.terminate();
    }, MAX_READ_MS);
    worker.once("message", (answer: WorkerAnswer) => {
      if ("read" in answer) resolve(answer.read);
      else reject(new UsageError(answer.usage));
    });
    worker.once("error", (error: NodeJS.ErrnoException) => {
      if (error.code === "ERR_WORKER_OUT_OF_MEMORY") {
        return fail(`needs more than ${heapMiB} MiB of memory to be read`);
      }
      // A thread takes six file descriptors. Without them, a stall is better than keeping an old policy.
      try {
        resolve(readText(text, config, identities));
      } catch (thrown) {
        reject(thrown);
      }
    });
    worker.once("exit", () => {
      clearTimeout(timer);
      // Settled by now, unless the thread ended without an answer.
      fail("the thread that reads it ended");
    });
  });
}

/**
 * Parses the text of the policy file of a command line without a stall of the event loop, whatever its length, if this
 * process may start threads. @throws UsageError: one line with file, field and fix
 */
export async function readAside(text: string, config: Config, identities: Identities): Promise<ReadPolicy> {
  // Under Node's permission model a thread needs --allow-worker, and would have no restrictions itself.
  const aside = text.length > MAX_AT_ONCE && process.permission?.has("worker") !== false;
  return aside ? inThread(text, config, identities) : readText(text, config, identities);
}
