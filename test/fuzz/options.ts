import { parseArgs } from "node:util";
import {
  ALL_KINDS,
  type Choice,
  CLIENTS,
  type ClientKind,
  NAMES,
  type NameKind,
  RECEIVERS,
  type ReceiverKind,
} from "./world.ts";

/** The options of a fuzz run. */
export interface Options {
  connections: number;
  seed: number;
  minutes: number;
  concurrency: number;
  workers: number;
  checkEvery: number;
  restart: boolean;
  quick: boolean;
  records: string | undefined;
  choice: Choice;
}

export const HELP = `Usage: make fuzz [SEED=N] [MINUTES=N] [ARGS="options"]

Combines hostile clients, receivers and DNS answers at random against one proxy process. Checks that tunnels, connections and
file descriptors return to their base line, that each request has one access record, that the proxy dials no forbidden address,
and that well-behaved deliveries succeed. As root it runs in a network namespace of its own, without a route out.


  --connections N    client connections (default 300000)
  --seed N           repeats the plans of an earlier run with the same kinds (default random; also SEED)
  --minutes N        opens no further connection after N minutes (default 20; also MINUTES)
  --check-every N    checks all invariants whenever N connections are done (default 50000)
  --restart          ends the proxy with SIGTERM after each check and starts a new one
  --concurrency N    open client connections (default 512)
  --workers N        processes of clients (default 2)
  --quick            skips clients that wait for the time limit of the request head (10 s)
  --records FILE     appends every access record to FILE
  --without KIND     leaves a kind out; repeatable
  --only KIND        uses only the named kinds of the list that contains KIND; repeatable
  --help             print this

Kinds of clients:   ${Object.keys(CLIENTS).join(" ")}
Kinds of receivers: ${Object.keys(RECEIVERS).join(" ")}
Kinds of names:     ${Object.keys(NAMES).join(" ")}
`;

/** An error in the command line. */
export class OptionError extends Error {}

function number(name: string, text: string | undefined, fallback: number, max = 1e9): number {
  if (text === undefined || text === "") return fallback;
  const value = Number(text);
  if (!/^\d+(\.\d+)?$/.test(text) || value > max) throw new OptionError(`${name} must be a number, not "${text}"`);
  return value;
}

function chosen<K extends string>(
  table: Readonly<Record<K, number>>,
  without: readonly string[],
  only: readonly string[],
): Partial<Record<K, number>> {
  const named = only.filter((kind) => kind in table);
  const kept = Object.entries(table).filter(([kind]) => {
    return !without.includes(kind) && (named.length === 0 || named.includes(kind));
  });
  if (kept.length === 0) throw new OptionError("--without and --only leave no kind of one list");
  return Object.fromEntries(kept) as Partial<Record<K, number>>;
}

/** Reads the command line, then SEED and MINUTES. Null: print the help. @throws OptionError */
export function readOptions(argv: readonly string[], env: NodeJS.ProcessEnv): Options | null {
  const text = { type: "string" } as const;
  const list = { type: "string", multiple: true, default: [] as string[] } as const;
  const flag = { type: "boolean", default: false } as const;
  const { values } = parseArgs({
    args: [...argv],
    options: {
      connections: text,
      seed: text,
      minutes: text,
      "check-every": text,
      concurrency: text,
      workers: text,
      restart: flag,
      quick: flag,
      records: text,
      without: list,
      only: list,
      help: flag,
    },
  });
  if (values.help) return null;
  const unknown = [...values.without, ...values.only].find((kind) => !ALL_KINDS.includes(kind));
  if (unknown !== undefined) throw new OptionError(`unknown kind "${unknown}"; see --help`);
  const random = Date.now() & 0x7fffffff;
  return {
    connections: number("--connections", values.connections, 300_000),
    seed: number("--seed", values.seed ?? env.SEED, random, 0x7fffffff),
    minutes: number("--minutes", values.minutes ?? env.MINUTES, 20),
    checkEvery: number("--check-every", values["check-every"], 50_000),
    concurrency: number("--concurrency", values.concurrency, 512, 4000),
    workers: number("--workers", values.workers, 2, 16),
    restart: values.restart,
    quick: values.quick,
    records: values.records,
    choice: {
      clients: chosen<ClientKind>(CLIENTS, values.without, values.only),
      receivers: chosen<ReceiverKind>(RECEIVERS, values.without, values.only),
      names: chosen<NameKind>(NAMES, values.without, values.only),
    },
  };
}
