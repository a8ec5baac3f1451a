import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import { connect } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import type { Pod } from "../../operator/api/objects.ts";
import { startProgress } from "../../proxy/cli/progress.ts";
import { FOUR } from "../cluster/node/addresses.ts";
import { CLUSTER_TOOLS, type Cluster, clusterMissing } from "../cluster/node/cluster.ts";
import { namespaceMissing, startInNamespace } from "../harness/namespace.ts";
import { applyPolicy, untilCondition } from "../operator/operator.ts";
import { addressesSeen, deploySender, NS, runningPods, SPEC, SYSTEM, startStage } from "./stage.ts";

/**
 * `make soak`: 100 tunnels a second through two fleets on a real node. Every minute one of them gets a rolling update,
 * and new senders are injected. It measures the resources of the programs, and fails if memory grows. `soak.ts
 * [MINUTES]`, default 15.
 */

const MINUTES = Number(process.argv[2] ?? 15);
const INSIDE = "OUTRIDER_SOAK_INSIDE";
const PER_SECOND = 100;
const SAMPLE_MS = 10_000;
const CHANGE_MS = 60_000;
/** Parts of the run with their expected times; those besides the load are estimates. */
const PARTS = {
  start: { name: "start a cluster and install the chart", seconds: 40 },
  fleets: { name: "start two fleets", seconds: 15 },
  load: { name: "load", seconds: MINUTES * 60 },
  stop: { name: "stop the cluster", seconds: 5 },
};
const progress = startProgress(process.env[INSIDE] === undefined ? [] : Object.values(PARTS));
/** Of the whole time. */
const WARM_UP = 0.2;
const MAX_GROWTH = 1.1;
const READY_MS = 90_000;
const TUNNEL_MS = 10_000;
const TICKS = 100;

interface Sample {
  at: number;
  rssMiB: number;
  cpuSeconds: number;
}
interface Watched {
  name: string;
  samples: Sample[];
}

/** Programs in containers by their pod: the name of their control group contains the pod's uid. */
function processesOf(pods: readonly Pod[]): { pid: string; name: string }[] {
  return readdirSync("/proc").flatMap((pid) => {
    if (!/^\d+$/.test(pid)) return [];
    try {
      const groups = readFileSync(`/proc/${pid}/cgroup`, "utf8");
      const pod = pods.find(({ metadata }) => groups.includes(metadata.uid!));
      const isNode = /^\S*node\0/.test(readFileSync(`/proc/${pid}/cmdline`, "utf8"));
      return pod === undefined || !isNode ? [] : [{ pid, name: pod.metadata.name }];
    } catch {
      return [];
    }
  });
}

function sampleOf(pid: string): Sample {
  const rss = Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))![1]);
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return { at: Date.now(), rssMiB: rss / 1024, cpuSeconds: (Number(fields[11]) + Number(fields[12])) / TICKS };
}

/** One tunnel through a Service: how it ended, null after an answer. */
function tunnel(service: string): Promise<string | null> {
  return new Promise((resolve) => {
    const socket = connect(4750, service);
    let text = "";
    socket.setTimeout(TUNNEL_MS, () => socket.destroy(new Error("no answer in time")));
    socket.on("error", (error) => resolve(error.message));
    socket.on("data", (chunk) => {
      const first = text === "";
      text += chunk;
      if (first && text.startsWith("HTTP/1.1 200")) {
        socket.write(`GET /soak HTTP/1.1\r\nHost: ${FOUR.receiver}\r\nConnection: close\r\n\r\n`);
      } else if (text.endsWith(`${FOUR.staticIPs[0]}\n`)) socket.end();
    });
    socket.on("close", () =>
      resolve(text.endsWith(`${FOUR.staticIPs[0]}\n`) ? null : text.split("\r\n")[0] || "closed"),
    );
    socket.write(`CONNECT ${FOUR.receiver}:80 HTTP/1.1\r\nHost: ${FOUR.receiver}:80\r\n\r\n`);
  });
}

async function soak(cluster: Cluster): Promise<string[]> {
  const { plane } = cluster;
  progress.show(PARTS.fleets.name);
  const services = await Promise.all(
    ["steady", "rolled"].map(async (name) => {
      await applyPolicy(plane, NS, name, SPEC);
      await untilCondition(plane, NS, name, "Ready", "True", undefined, READY_MS);
      const path = `/api/v1/namespaces/${NS}/services/${name}-egress`;
      return (await plane.get<{ spec: { clusterIP: string } }>(path))!.spec.clusterIP;
    }),
  );
  const watched = new Map<string, Watched>();
  const sample = async () => {
    const system = (await plane.get<{ items: Pod[] }>(`/api/v1/namespaces/${SYSTEM}/pods`))!.items;
    const fleets = await runningPods(cluster, "egress.outrider.dev/fleet");
    for (const { pid, name } of processesOf([...system, ...fleets])) {
      const one = watched.get(pid) ?? { name, samples: [] };
      one.samples.push(sampleOf(pid));
      watched.set(pid, one);
    }
  };
  const began = Date.now();
  const ends = began + MINUTES * 60_000;
  const failures = new Map<string, number>();
  let made = 0;
  const open = new Set<Promise<void>>();
  const load = setInterval(() => {
    const index = made++ % 2;
    const one = tunnel(services[index]!).then((failed) => {
      const what = `${index === 0 ? "steady" : "rolled"}: ${failed}`;
      if (failed !== null) failures.set(what, (failures.get(what) ?? 0) + 1);
      open.delete(one);
    });
    open.add(one);
  }, 1000 / PER_SECOND);
  let changes = 0;
  for (let next = began + CHANGE_MS; Date.now() < ends; await sleep(SAMPLE_MS)) {
    progress.show(PARTS.load.name);
    await sample();
    if (Date.now() < next) continue;
    next += CHANGE_MS;
    const edition = `${++changes}`;
    await applyPolicy(plane, NS, "rolled", { ...SPEC, proxy: { podAnnotations: { edition } } });
    await applyPolicy(plane, NS, "steady", { ...SPEC, deny: [{ hosts: [`edition-${edition}.example`] }] });
    await deploySender(cluster, "agent", { annotations: { "egress.outrider.dev/policy": "steady", edition } });
  }
  clearInterval(load);
  await Promise.all(open);
  await sample();
  progress.clear();
  console.log(`${made} tunnels in ${MINUTES} minutes, ${changes} rolling updates`);
  for (const [what, count] of failures) console.log(`  failed: ${count} of ${what}`);
  // The fleet with a rolling update may refuse for a moment, since the senders here do not retry.
  return [...judge(watched, began, ends), ...[...failures.keys()].filter((what) => !what.startsWith("rolled"))];
}

/** Prints the measurements; returns the problems. */
function judge(watched: ReadonlyMap<string, Watched>, began: number, ends: number): string[] {
  const wrong: string[] = [];
  let judged = 0;
  const warm = began + (ends - began) * WARM_UP;
  console.log(`${"PROGRAM".padEnd(44)} RSS WARM  AT THE END  HIGHEST  CPU OF A CORE`);
  for (const { name, samples } of watched.values()) {
    const later = samples.filter(({ at }) => at >= warm);
    // A process that ran all the time.
    if (samples[0]!.at > warm || later.length < 6 || later.at(-1)!.at < ends - 3 * SAMPLE_MS) continue;
    const median = (part: readonly Sample[]) =>
      part.map(({ rssMiB }) => rssMiB).sort((a, b) => a - b)[part.length >> 1]!;
    const third = Math.ceil(later.length / 3);
    const [first, last] = [median(later.slice(0, third)), median(later.slice(-third))];
    const [a, b] = [later[0]!, later.at(-1)!];
    const share = ((b.cpuSeconds - a.cpuSeconds) * 1000) / (b.at - a.at);
    const highest = Math.max(...later.map(({ rssMiB }) => rssMiB));
    const cells = [first, last, highest].map((mib) => `${mib.toFixed(0)} MiB`.padStart(9));
    console.log(`${name.padEnd(44)} ${cells.join(" ")}   ${(share * 100).toFixed(1)} %`);
    judged++;
    if (last > first * MAX_GROWTH) wrong.push(`${name} grew from ${first.toFixed(0)} to ${last.toFixed(0)} MiB`);
  }
  // Two operators, and two proxies of the fleet without rolling updates.
  if (judged < 4) wrong.push(`only ${judged} programs ran all the time`);
  return wrong;
}

async function inside(): Promise<number> {
  progress.show(PARTS.start.name);
  const cluster = await startStage();
  let wrong: string[];
  try {
    wrong = await soak(cluster);
    const seen = addressesSeen(cluster, 0);
    if (seen.join() !== FOUR.staticIPs[0]) wrong.push(`the receiver saw ${seen.join(", ")}`);
  } finally {
    progress.show(PARTS.stop.name);
    await cluster.stop();
    progress.end();
  }
  for (const line of wrong) console.log(`wrong: ${line}`);
  return wrong.length === 0 ? 0 : 1;
}

/** In a network namespace of its own. */
async function outside(): Promise<number> {
  const missing = namespaceMissing() ?? clusterMissing();
  if (missing !== null) {
    console.error(`make soak: ${missing}`);
    return 2;
  }
  const child = await startInNamespace([import.meta.filename, `${MINUTES}`], {
    tools: CLUSTER_TOOLS,
    stdio: ["inherit", "inherit", "inherit"],
    env: { [INSIDE]: "1" },
  });
  // This process ends after the inner one, which it would kill before that has removed its progress.
  process.on("SIGINT", () => child.kill("SIGINT"));
  const [status] = (await once(child, "exit")) as [number | null];
  return status ?? 1;
}

process.exit(process.env[INSIDE] === undefined ? await outside() : await inside());
