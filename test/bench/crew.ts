import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import type { Counts, Job, Order, Outcome, Route } from "./wire.ts";

/** Generator and origin as processes, with their requests. */
export interface Crew {
  prepare(key: string, job: Job, route: Route): Promise<void>;
  run(key: string, seconds: number, minOps?: number): Promise<Outcome>;
  finish(key: string): Promise<void>;
  /** DNS queries and connections of the origin so far. */
  counts(): Promise<Counts>;
  close(): void;
}

/** A proxy failed an operation that has to work before anything can be measured. */
export class PeerError extends Error {
  constructor(proxy: string, cause: unknown) {
    super(`${proxy}: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
  }
}

/** Waits for work that needs a proxy. @throws PeerError with the name of the proxy */
export async function needing<T>(proxy: string, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    throw new PeerError(proxy, error);
  }
}

async function member(file: string): Promise<ChildProcess> {
  const child = fork(new URL(file, import.meta.url), { stdio: ["ignore", "inherit", "inherit", "ipc"] });
  const [word] = (await Promise.race([once(child, "message"), once(child, "exit")])) as [unknown];
  if (word !== "ready") throw new Error(`${file} ended with ${word}`);
  return child;
}

async function ask<T>(child: ChildProcess, message: object): Promise<T> {
  const answer = once(child, "message");
  child.send(message);
  return (await answer)[0] as T;
}

/** Starts both; they share the core of this process. */
export async function startCrew(): Promise<Crew> {
  const [origin, generator] = await Promise.all([member("origin.ts"), member("generator.ts")]);
  const order = async (message: Order): Promise<Outcome | null> => {
    const answer = await ask<{ outcome?: Outcome | null; error?: string }>(generator, message);
    if (answer.error !== undefined) throw new Error(answer.error);
    return answer.outcome ?? null;
  };
  return {
    prepare: async (key, job, route) => void (await order({ do: "prepare", key, job, route })),
    run: async (key, seconds, minOps = 0) => (await order({ do: "run", key, seconds, minOps }))!,
    finish: async (key) => void (await order({ do: "finish", key })),
    counts: () => ask<Counts>(origin, {}),
    close: () => {
      for (const child of [origin, generator]) child.kill();
    },
  };
}
