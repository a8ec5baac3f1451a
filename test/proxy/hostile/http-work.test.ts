import assert from "node:assert/strict";
import { once } from "node:events";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Worker } from "node:worker_threads";
import { Baseline } from "../../harness/baseline.ts";
import { OPEN_LOOPBACK, type ProxyHandle, startProxy } from "../../harness/proxy.ts";
import { listen, RawClient } from "../../harness/raw.ts";

/** The goal is 5 on an idle machine. Tests run on loaded machines with two cores, so the test allows more. */
const MAX_RATIO = 10;
/** A single delay of the scheduler must not decide. */
const SLACK_MS = 20;
const CONNECTS = 15;
const ROUNDS = 2;
const CLIENTS = 2;
const WARM_UP_MS = 100;

let proxy: ProxyHandle;
let far: Awaited<ReturnType<typeof listen>>;
let attackers: Worker;
before(async () => {
  proxy = await startProxy({ policy: {}, args: OPEN_LOOPBACK });
  far = await listen((socket) => socket.resume());
  attackers = new Worker(new URL("http-attackers.worker.ts", import.meta.url), {
    workerData: { proxyPort: proxy.port, clients: CLIENTS },
  });
  await once(attackers, "message");
});
after(async () => {
  await attackers.terminate();
  assert.equal(await proxy.stop(), 0);
  await far.close();
});

async function run(kind: string): Promise<void> {
  const started = once(attackers, "message");
  attackers.postMessage(kind);
  await started;
}

const median = (times: readonly number[]): number => [...times].sort((a, b) => a - b)[times.length >> 1]!;

/** Times of CONNECTs in milliseconds, during attacks of a kind. */
async function connects(kind: string): Promise<number[]> {
  await run(kind);
  await sleep(WARM_UP_MS);
  const times: number[] = [];
  for (let i = 0; i < CONNECTS; i++) {
    const began = performance.now();
    const client = await RawClient.open(proxy.port);
    await client.connect(`127.0.0.1:${far.port}`);
    times.push(performance.now() - began);
    client.socket.resetAndDestroy();
  }
  return times;
}

const KINDS = [
  "tiny-chunks",
  "tiny-chunks-sent",
  "interim-heads",
  "short-interim-heads",
  "fields",
  "fields-sent",
  "white-space",
  "white-space-sent",
  "trailers",
];

for (const kind of KINDS) {
  test(`a CONNECT is not slowed down by ${kind}`, async () => {
    const baseline = await Baseline.of(proxy);
    const times = { bulk: [] as number[], attack: [] as number[] };
    for (let round = 0; round < ROUNDS; round++) {
      times.bulk.push(...(await connects("bulk")));
      times.attack.push(...(await connects(kind)));
    }
    await run("");
    const [bulk, attack] = [median(times.bulk), median(times.attack)];
    console.error(
      `CONNECT beside ${kind}: ${attack.toFixed(1)} ms, beside a download: ${bulk.toFixed(1)} ms, ratio ${(attack / bulk).toFixed(1)}`,
    );
    assert.ok(attack < MAX_RATIO * bulk + SLACK_MS, `median ${attack} ms, beside a download ${bulk} ms`);
    await baseline.restored();
  });
}
