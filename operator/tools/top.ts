import { setTimeout as sleep } from "node:timers/promises";
import { type Option, optionHelp, wholeNumber } from "../../proxy/cli/options.ts";
import type { Pod } from "../api/objects.ts";
import type { Client } from "../kube/client.ts";
import { ask, askAll, readyOf, requireAnswer, whyNot } from "./ask.ts";
import {
  CLUSTER_OPTIONS,
  type Cluster,
  getPolicy,
  HELP_OPTION,
  OUTPUT_OPTION,
  onePolicy,
  openCluster,
  proxiesOf,
  readCommand,
  wantsJson,
} from "./cluster.ts";
import { EXIT, failureOf } from "./failure.ts";
import { countsOf, type ProxyCounts, ratesOf } from "./proxy-metrics.ts";
import { renderTop, type TopRow } from "./render-top.ts";
import { paintFor, safe, safeJson } from "./text.ts";
import { endOnSignal, makeScreen } from "./watch.ts";

const OPTIONS: readonly Option[] = [
  { name: "interval-seconds", value: "N", fallback: "2", help: "time between two readings, from which rates follow" },
  { name: "watch", short: "w", help: "print again after each interval, until SIGINT" },
  ...CLUSTER_OPTIONS,
  OUTPUT_OPTION,
  HELP_OPTION,
];

const HELP = `Usage: kubectl egress top POLICY [options]

Prints for each running proxy its open tunnels, the requests and refusals a second, and the refusals by reason since it started.
Exit status: 0 printed, 2 wrong usage, 3 no answer.

${optionHelp(OPTIONS)}`;

/** Counts of a proxy at a moment (monotonic, in milliseconds). */
interface Reading {
  at: number;
  counts: ProxyCounts;
}

async function read(client: Client, pod: Pod): Promise<Reading> {
  const { status, body } = await ask(client, pod, { path: "/metrics" });
  if (status !== 200) throw new Error(`/metrics returned ${status}`);
  return { at: performance.now(), counts: countsOf(body) };
}

/** Readings of the running proxies, and the rates since the last ones. */
async function round(
  cluster: Cluster,
  name: string,
  last: Map<string, Reading>,
): Promise<{ rows: TopRow[]; readings: Map<string, Reading> }> {
  const pods = readyOf(await proxiesOf(cluster, name), name, { anyRunning: true });
  const results = await askAll(pods, (pod) => read(cluster.client, pod));
  requireAnswer(results);
  const readings = new Map<string, Reading>();
  const rows = results.map(({ pod, answer, error }): TopRow => {
    const key = pod.metadata.uid ?? pod.metadata.name;
    const before = last.get(key);
    if (answer !== undefined) readings.set(key, answer);
    return {
      pod: pod.metadata.name,
      node: pod.spec?.nodeName ?? null,
      counts: answer?.counts ?? null,
      rates:
        answer === undefined || before === undefined
          ? null
          : ratesOf(before.counts, answer.counts, (answer.at - before.at) / 1000),
      error: answer === undefined ? whyNot(error) : null,
    };
  });
  return { rows, readings };
}

const jsonOf = (cluster: Cluster, policy: string, rows: readonly TopRow[]) =>
  safeJson({
    namespace: cluster.namespace,
    policy,
    proxies: rows.map(({ counts, ...row }) => ({
      ...row,
      counts: counts === null ? null : { ...counts, refusals: Object.fromEntries(counts.refusals) },
    })),
  });

/** `kubectl egress top`: returns the exit status. @throws UsageError, Failure, ApiError */
export async function runTop(argv: readonly string[]): Promise<number> {
  const parsed = readCommand(OPTIONS, HELP, argv);
  if (parsed === undefined) return EXIT.ok;
  const { values, positionals } = parsed;
  const name = onePolicy(positionals, "top");
  const intervalMs = (wholeNumber(values, "interval-seconds", 1, 60) ?? 2) * 1000;
  const json = wantsJson(values);
  const cluster = openCluster(values);
  const isWatching = values.has("watch");
  if (isWatching) endOnSignal();
  await getPolicy(cluster, name);
  const paint = paintFor(process.stdout.isTTY && !json, process.env);
  const print = makeScreen(process.stdout.isTTY && isWatching);
  let { readings } = await round(cluster, name, new Map());
  do {
    await sleep(intervalMs);
    try {
      const next = await round(cluster, name, readings);
      readings = next.readings;
      print(json ? jsonOf(cluster, name, next.rows) : renderTop(next.rows, paint));
    } catch (error) {
      // A watch outlives a restart of the proxies and of the API server.
      if (!isWatching) throw error;
      console.error(`outrider: ${safe((failureOf(error) as Error).message)}`);
    }
  } while (isWatching);
  return EXIT.ok;
}
