import { readFileSync } from "node:fs";
import { Agent, request } from "node:https";
import { startControlPlane } from "../../cluster/control-plane.ts";
import { freePort } from "../../cluster/processes.ts";
import { startOperator } from "../../operator/operator.ts";
import { createPod, installWebhook, makeSenders, podOf, proxyOf, SECRET_PATH } from "../../webhook/shared.ts";

/**
 * Costs of an admission: a real operator behind a real API server. The benchmark posts reviews as the API server does,
 * and creates pods, alternately with and without opt-in. `main.ts [PODS_PER_SECOND] [SECONDS]`
 */

const PER_SECOND = Number(process.argv[2] ?? 50);
const SECONDS = Number(process.argv[3] ?? 20);
/** The first reviews compile the code. */
const WARM_SECONDS = 5;
const READY_MS = 30_000;

/** Milliseconds of each, started at a constant rate, independently of earlier ones. */
async function measure(seconds: number, one: (index: number) => Promise<void>): Promise<number[]> {
  const ms: number[] = [];
  const open: Promise<void>[] = [];
  const began = performance.now();
  for (let index = 0; index < PER_SECOND * seconds; index++) {
    const wait = began + (index * 1000) / PER_SECOND - performance.now();
    if (wait > 0) await new Promise((resolve) => setTimeout(resolve, wait));
    const sent = performance.now();
    open.push(
      one(index).then(() => {
        ms.push(performance.now() - sent);
      }),
    );
  }
  await Promise.all(open);
  return ms.sort((a, b) => a - b);
}

function print(name: string, ms: readonly number[]): void {
  const at = (part: number) => `${ms[Math.floor((ms.length - 1) * part)]!.toFixed(1)} ms`;
  console.log(`${name.padEnd(36)} p50 ${at(0.5)}  p99 ${at(0.99)}  max ${at(1)}  of ${ms.length}`);
}

const plane = await startControlPlane({ controllers: true });
const port = await freePort();
await installWebhook(plane, port);
await makeSenders(plane, "convoy");
const operator = await startOperator(plane, { args: [`--webhook=127.0.0.1:${port}`, "--webhook-names=127.0.0.1"] });
await operator.untilLeading();
for (const began = Date.now(); ; await new Promise((resolve) => setTimeout(resolve, 100))) {
  const answer = await createPod(plane, "convoy", podOf("probe", { label: "webhooks" }), "?dryRun=All");
  if (proxyOf(answer) !== undefined) break;
  if (Date.now() - began > READY_MS) throw new Error(`not admitted: ${answer.status} ${answer.body.message}`);
}

const secret = await plane.get<{ data: Record<string, string> }>(SECRET_PATH);
const agent = new Agent({ keepAlive: true, ca: Buffer.from(secret!.data["ca.crt"]!, "base64") });
const review = JSON.stringify({
  apiVersion: "admission.k8s.io/v1",
  kind: "AdmissionReview",
  request: {
    uid: "bench",
    operation: "CREATE",
    resource: { group: "", version: "v1", resource: "pods" },
    namespace: "convoy",
    object: podOf("bench", { annotation: "webhooks" }),
  },
});
const post = (): Promise<void> =>
  new Promise((resolve, reject) => {
    const headers = { "content-type": "application/json", "content-length": Buffer.byteLength(review) };
    const sent = request({ host: "127.0.0.1", port, path: "/inject", method: "POST", headers, agent }, (response) => {
      let text = "";
      response.on("data", (chunk: Buffer) => {
        text += chunk;
      });
      response.on("end", () => (text.includes('"patch"') ? resolve() : reject(new Error(text))));
    });
    sent.on("error", reject);
    sent.end(review);
  });
const creating = (name: string, opt: { annotation?: string }) => async (index: number) => {
  const { status, body } = await createPod(plane, "convoy", podOf(`${name}-${index}`, opt));
  if (status !== 201) throw new Error(`${name}-${index}: ${status} ${body.message}`);
};

try {
  await measure(WARM_SECONDS, post);
  await measure(WARM_SECONDS, creating("warm", { annotation: "webhooks" }));
  console.log(`${PER_SECOND} a second`);
  print("a review, posted to the webhook", await measure(SECONDS, post));
  print("creation of a pod, not opted in", await measure(SECONDS, creating("plain", {})));
  print("creation of a pod, injected", await measure(SECONDS, creating("injected", { annotation: "webhooks" })));
  const metrics = await (await fetch(`${operator.metrics}/metrics`)).text();
  const value = (line: string) => Number(new RegExp(`^${line} ([\\d.e-]+)$`, "m").exec(metrics)?.[1]);
  const count = value("outrider_webhook_review_seconds_count");
  const mean = (value("outrider_webhook_review_seconds_sum") / count) * 1000;
  console.log(`within the operator: mean ${mean.toFixed(2)} ms over ${count} reviews`);
  if (process.env.LOG !== undefined) console.log(readFileSync(operator.program.log, "utf8"));
} finally {
  agent.destroy();
  await operator.stop("SIGKILL");
  await plane.stop();
}
