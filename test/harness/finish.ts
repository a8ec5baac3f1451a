import type { ChildProcess } from "node:child_process";

/** Exit status and output of a program. */
export interface Finished {
  status: number | null;
  stdout: string;
  stderr: string;
}

/** Waits until a program has ended and its output is read completely. */
export async function finish(child: ChildProcess): Promise<Finished> {
  let stdout = "";
  let stderr = "";
  child.stdout!.on("data", (chunk: Buffer) => {
    stdout += chunk;
  });
  child.stderr!.on("data", (chunk: Buffer) => {
    stderr += chunk;
  });
  const status = await new Promise<number | null>((resolve, reject) => {
    child.once("error", reject);
    // Not "exit": the last lines may still be in the pipe.
    child.once("close", resolve);
  });
  return { status, stdout, stderr };
}
