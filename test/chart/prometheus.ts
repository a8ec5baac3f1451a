import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { stringify } from "yaml";
import { freePort, inheritedEnv, Program } from "../cluster/processes.ts";
import { findTool } from "../cluster/tools.ts";
import { tempFolder } from "../harness/proxy.ts";

/** A real Prometheus on loopback, which scrapes every second. */

const START_MS = 60_000;

/** A process to scrape: a monitor of the chart adds these labels. */
export interface Target {
  job: string;
  /** `IP:PORT` of its /metrics. */
  address: string;
  labels: Readonly<Record<string, string>>;
  /** Labels of the metrics win. */
  honorLabels?: boolean;
}

/** A series of the result of a query. */
export interface Series {
  metric: Record<string, string>;
  value: number;
}

/** Name of a metric → its type. */
export type Metadata = Map<string, string>;

export interface Prometheus {
  /** The value of an expression now. @throws Error with the reason of Prometheus */
  query(expression: string): Promise<Series[]>;
  /** The values of a label in these series. */
  labelValues(label: string, series: string): Promise<string[]>;
  /** The metrics of the targets of a job. */
  metadata(job: string): Promise<Metadata>;
  stop(): Promise<void>;
}

/** Starts Prometheus, and waits until it is ready. */
export async function startPrometheus(targets: readonly Target[]): Promise<Prometheus> {
  const folder = tempFolder();
  const config = join(folder, "prometheus.yaml");
  const jobs = [...new Set(targets.map(({ job }) => job))].map((job) => ({
    job_name: job,
    honor_labels: targets.some((target) => target.job === job && target.honorLabels === true),
    static_configs: targets
      .filter((target) => target.job === job)
      .map(({ address, labels }) => ({ targets: [address], labels })),
  }));
  writeFileSync(config, stringify({ global: { scrape_interval: "1s" }, scrape_configs: jobs }));
  const listen = `127.0.0.1:${await freePort()}`;
  const program = new Program(
    "prometheus",
    [
      await findTool("prometheus"),
      `--config.file=${config}`,
      `--storage.tsdb.path=${join(folder, "data")}`,
      `--web.listen-address=${listen}`,
    ],
    join(folder, "prometheus.log"),
    inheritedEnv(),
  );
  program.start();
  const api = async <T>(path: string): Promise<T> => {
    const response = await fetch(`http://${listen}/api/v1/${path}`);
    const { data, error } = (await response.json()) as { data: T; error?: string };
    if (error !== undefined) throw new Error(`${decodeURIComponent(path)}: ${error}`);
    return data;
  };
  for (const began = Date.now(); ; await sleep(100)) {
    if (!program.running || Date.now() - began > START_MS) throw new Error(`Prometheus is not ready: ${program.tail}`);
    const ready = await fetch(`http://${listen}/-/ready`).catch(() => undefined);
    if (ready?.ok) break;
  }
  return {
    query: async (expression) => {
      type Found = { metric: Record<string, string>; value: [number, string] };
      const { result } = await api<{ result: Found[] }>(`query?query=${encodeURIComponent(expression)}`);
      return result.map(({ metric, value: [, text] }) => ({ metric, value: Number(text) }));
    },
    labelValues: (label, series) => api(`label/${label}/values?match[]=${encodeURIComponent(series)}`),
    metadata: async (job) => {
      const selector = encodeURIComponent(`{job="${job}"}`);
      const found = await api<{ metric: string; type: string }[]>(`targets/metadata?match_target=${selector}`);
      return new Map(found.map(({ metric, type }) => [metric, type]));
    },
    stop: () => program.stop("SIGTERM"),
  };
}
