import { Worker } from "node:worker_threads";
import { askRefused, ClientTunnel, type Done, frameBytes, HttpClient } from "./clients.ts";
import { quantile } from "./ratios.ts";
import type { Beat } from "./ticker.ts";
import { ALLOWED_NAME, type Job, LATENCY_SHARES, type Order, type Outcome, type Route } from "./wire.ts";

/** The load, in its own process: takes orders from its parent and answers each with an outcome. */

/** Limit of the tunnels that are opened at once while a job is prepared. */
const OPENING = 64;
/** Time limit for open operations after the end of a run; then they are errors. */
const DRAIN_MS = 3000;
/** Time limit for the operations of a warm-up, which a busy machine needs. */
const WARM_UP_MS = 60_000;
/** Pause after an error, so that a proxy that has ended does not get a million requests. */
const ERROR_PAUSE_MS = 5;
/** Delay before an open loop starts, until its thread runs. */
const LEAD_MS = 200;

/** A prepared job: `act` does one operation. */
interface Prepared {
  job: Job;
  act(lane: number, done: Done): void;
  close(): void;
}

const nowMs = (): number => {
  const [seconds, nanoseconds] = process.hrtime();
  return seconds * 1000 + nanoseconds / 1e6;
};

/** Closes connections that stay open between operations. */
function closeAll(list: Iterable<{ close(): void }>): void {
  for (const one of list) one.close();
}

function tunnels(job: Job & { kind: "tunnel" }, route: Route): Prepared {
  const frames = job.frames.map((frame) => ({ bytes: frameBytes(frame), down: frame.down }));
  const names = job.names ?? 0;
  const open = new Set<ClientTunnel>();
  let count = 0;
  const act = (_lane: number, done: Done) => {
    const host = names === 0 ? ALLOWED_NAME : `n${count++ % names}.${ALLOWED_NAME}`;
    let at = 0;
    const step: Done = (error) => {
      const frame = frames[at++];
      if (error === null && frame !== undefined) {
        tunnel.exchange(frame.bytes, frame.down, step);
        return;
      }
      tunnel.close();
      open.delete(tunnel);
      done(error);
    };
    const tunnel = new ClientTunnel(route, host, step);
    open.add(tunnel);
  };
  const close = () => {
    closeAll(open);
    open.clear();
  };
  return { job, act, close };
}

/** Opens all tunnels, each with one exchange. @throws the first error */
async function openTunnels(job: Job & { kind: "open" }, route: Route): Promise<Prepared> {
  const bytes = frameBytes(job.frame);
  const all: ClientTunnel[] = [];
  const openOne = () =>
    new Promise<void>((resolve, reject) => {
      const settle: Done = (error) => (error === null ? resolve() : reject(error));
      const opened: Done = (error) => {
        if (error !== null) reject(error);
        else tunnel.exchange(bytes, job.frame.down, settle);
      };
      const tunnel = new ClientTunnel(route, ALLOWED_NAME, opened);
      all.push(tunnel);
    });
  const lane = async () => {
    while (all.length < job.clients) await openOne();
  };
  try {
    await Promise.all(Array.from({ length: Math.min(OPENING, job.clients) }, lane));
  } catch (error) {
    closeAll(all);
    throw error;
  }
  const close = () => closeAll(all);
  if (job.rate === undefined) {
    return { job, act: (lane, done) => all[lane]!.exchange(bytes, job.frame.down, done), close };
  }
  const free = [...all];
  const act = (_lane: number, done: Done) => {
    const tunnel = free.shift();
    if (tunnel === undefined) {
      done(new Error("every tunnel waits for an answer"));
      return;
    }
    tunnel.exchange(bytes, job.frame.down, (error) => {
      free.push(tunnel);
      done(error);
    });
  };
  return { job, act, close };
}

async function prepare(job: Job, route: Route): Promise<Prepared> {
  switch (job.kind) {
    case "tunnel":
      return tunnels(job, route);
    case "open":
      return await openTunnels(job, route);
    case "http": {
      const clients = Array.from({ length: job.clients }, () => new HttpClient(route, job.keepAlive));
      const act = (lane: number, done: Done) => clients[lane]!.post(done);
      return { job, act, close: () => closeAll(clients) };
    }
    case "refused":
      return { job, act: (_lane, done) => void askRefused(route, done), close: () => {} };
  }
}

/** Results of the operations of one run. */
class Tally {
  readonly #times: number[] = [];
  #errors = 0;
  #error: string | undefined;
  readonly #began = nowMs();
  #last = this.#began;

  get ops(): number {
    return this.#times.length;
  }

  count(error: Error | null, started: number): void {
    this.#last = nowMs();
    if (error === null) this.#times.push(this.#last - started);
    else this.fail(1, error.message);
  }

  fail(count: number, message: string): void {
    this.#errors += count;
    this.#error ??= message.slice(0, 200);
  }

  outcome(): Outcome {
    const sorted = this.#times.sort((a, b) => a - b);
    const at = (share: number) => (sorted.length === 0 ? Number.NaN : quantile(sorted, share));
    return {
      ops: sorted.length,
      errors: this.#errors,
      ...(this.#error === undefined ? {} : { error: this.#error }),
      seconds: (this.#last - this.#began) / 1000,
      p50Ms: at(0.5),
      p99Ms: at(0.99),
      p999Ms: at(0.999),
      latencyMs: sorted.length === 0 ? [] : LATENCY_SHARES.map(at),
    };
  }
}

/** Every lane starts its next operation when the last one is done. */
function closedLoop({ job, act }: Prepared, seconds: number, minOps: number, tally: Tally, done: () => void): void {
  const end = nowMs() + seconds * 1000;
  let running = job.clients;
  const next = (lane: number) => {
    const started = nowMs();
    if (started >= end && tally.ops >= minOps) {
      if (--running === 0) done();
      return;
    }
    act(lane, (error) => {
      tally.count(error, started);
      if (error === null) next(lane);
      else setTimeout(next, ERROR_PAUSE_MS, lane);
    });
  };
  for (let lane = 0; lane < job.clients; lane++) next(lane);
}

/** Starts operations when they are due, regardless of the number of open ones. */
function openLoop({ act }: Prepared, rate: number, seconds: number, tally: Tally, done: () => void): void {
  const beat: Beat = { firstMs: nowMs() + LEAD_MS, everyMs: 1000 / rate, count: Math.round(rate * seconds) };
  const ticker = new Worker(new URL("ticker.ts", import.meta.url), { workerData: beat });
  let running = beat.count;
  ticker.on("message", (i: number) => {
    act(i, (error) => {
      tally.count(error, beat.firstMs + i * beat.everyMs);
      if (--running === 0) done();
    });
  });
}

async function run(prepared: Prepared, seconds: number, minOps: number): Promise<Outcome> {
  const tally = new Tally();
  const { job } = prepared;
  let over = () => {};
  const late = () => {
    tally.fail(1, "operations did not end");
    prepared.close();
    over();
  };
  const limit = setTimeout(late, seconds * 1000 + (minOps > 0 ? WARM_UP_MS : DRAIN_MS));
  await new Promise<void>((resolve) => {
    over = resolve;
    if ("rate" in job && job.rate !== undefined) openLoop(prepared, job.rate, seconds, tally, resolve);
    else closedLoop(prepared, seconds, minOps, tally, resolve);
  });
  clearTimeout(limit);
  return tally.outcome();
}

const prepared = new Map<string, Prepared>();

async function obey(order: Order): Promise<Outcome | null> {
  if (order.do === "prepare") {
    prepared.set(order.key, await prepare(order.job, order.route));
    return null;
  }
  const job = prepared.get(order.key)!;
  if (order.do === "run") return await run(job, order.seconds, order.minOps);
  job.close();
  prepared.delete(order.key);
  return null;
}

process.on("message", (order: Order) => {
  obey(order).then(
    (outcome) => process.send!({ outcome }),
    (error: Error) => process.send!({ error: error.message }),
  );
});
process.on("disconnect", () => process.exit());
process.send!("ready");
