import { request } from "node:http";
import type { Duplex } from "node:stream";
import { isReady, type Pod } from "../api/objects.ts";
import { adminPort, type ProxyStatus, readProxyStatus } from "../fleet/proxy-status.ts";
import { ApiError, type Client } from "../kube/client.ts";
import { Failure, missingRight } from "./failure.ts";

/** Limit of an answer in bytes. Metrics of a policy with many clients have some hundred kilobytes. */
const MAX_ANSWER_BYTES = 4 * 1024 * 1024;
/** Proxies that are asked at once. */
const PARALLEL = 8;
/** Time limit of one question. */
export const ASK_MS = 10_000;

/** The complete answer of a proxy to one request. */
export interface Reply {
  status: number;
  body: string;
}

interface Question {
  method?: "GET" | "POST";
  path: string;
  timeoutMs?: number;
}

/**
 * Whether a proxy listens on the address of its node only. The kubelet forwards ports to the loopback address, which such a
 * proxy does not have.
 */
export function isOnNode(pod: Pod): boolean {
  const args = (pod.spec?.containers ?? []).flatMap((container) => container.args ?? []);
  return pod.spec?.hostNetwork === true || args.some((arg) => arg.startsWith("--admin=["));
}

/** Sends one HTTP request over a stream. Rejects without a complete answer in time. */
function exchange(stream: Duplex, port: number, question: Question, timeoutMs: number): Promise<Reply> {
  return new Promise((resolve, reject) => {
    // The admin port takes questions with an effect for this name only.
    const headers = { Host: `localhost:${port}`, Connection: "close" };
    const { method = "GET", path } = question;
    const outgoing = request({ createConnection: () => stream, method, path, headers }, (response) => {
      const chunks: Buffer[] = [];
      let size = 0;
      response.on("data", (chunk: Buffer) => {
        size += chunk.length;
        if (size > MAX_ANSWER_BYTES) outgoing.destroy(new Error(`an answer above ${MAX_ANSWER_BYTES} bytes`));
        else chunks.push(chunk);
      });
      response.on("error", reject);
      response.on("end", () => resolve({ status: response.statusCode!, body: Buffer.concat(chunks).toString() }));
    });
    const timer = setTimeout(() => outgoing.destroy(new Error(`no answer within ${timeoutMs} ms`)), timeoutMs);
    outgoing.on("error", reject);
    outgoing.on("close", () => {
      clearTimeout(timer);
      // After an answer this has no effect. A 101 closes the connection without an error.
      reject(new Error("the connection closed without a complete answer"));
    });
    outgoing.end();
  });
}

/** Asks the admin port of one proxy with the rights of the caller. @throws ApiError, or Error with the reason */
export async function ask(client: Client, pod: Pod, question: Question): Promise<Reply> {
  const { name, namespace } = pod.metadata;
  const port = adminPort(pod);
  if (port === undefined) throw new Error("the pod has no port named admin");
  const { timeoutMs = ASK_MS } = question;
  if (isOnNode(pod)) {
    const host = encodeURIComponent(`${name}:${port}`);
    const path = `/api/v1/namespaces/${encodeURIComponent(namespace!)}/pods/${host}/proxy${question.path}`;
    return client.raw(question.method ?? "GET", path, { timeoutMs, maxBytes: MAX_ANSWER_BYTES }).then((answer) => {
      if (answer.status === 403 && /"kind":\s*"Status"/.test(answer.body)) {
        throw new ApiError(403, "Forbidden", (JSON.parse(answer.body) as { message: string }).message);
      }
      return answer;
    });
  }
  const stream = await client.forward({ namespace: namespace!, pod: name, port }, { timeoutMs });
  stream.on("error", () => {}); // the request gets it, or has its answer
  try {
    return await exchange(stream, port, question, timeoutMs);
  } finally {
    stream.destroy();
  }
}

/** The part of `/status` that the commands show. */
export interface Report extends ProxyStatus {
  version: string;
}

/** Asks a proxy for its `/status`. */
export async function askStatus(client: Client, pod: Pod, timeoutMs = ASK_MS): Promise<Report> {
  const { status, body } = await ask(client, pod, { path: "/status", timeoutMs });
  if (status !== 200) throw new Error(`/status returned ${status}`);
  const { version } = JSON.parse(body) as { version?: unknown };
  return { ...readProxyStatus(body), version: typeof version === "string" ? version : "" };
}

/** Why a question failed, in one line without the path of the call. */
export function whyNot(error: unknown): string {
  const missing = missingRight(error);
  return missing === undefined ? (error as Error).message.trim() : `missing right: ${missing}`;
}

/** Answers of several proxies, or the error of each. */
export async function askAll<T>(
  pods: readonly Pod[],
  question: (pod: Pod) => Promise<T>,
): Promise<{ pod: Pod; answer?: T; error?: unknown }[]> {
  const results: { pod: Pod; answer?: T; error?: unknown }[] = [];
  const waiting = pods.entries();
  const work = async () => {
    for (const [i, pod] of waiting) {
      try {
        results[i] = { pod, answer: await question(pod) };
      } catch (error) {
        results[i] = { pod, error };
      }
    }
  };
  await Promise.all(Array.from({ length: PARALLEL }, work));
  return results;
}

/** Whether a proxy may answer. While its gate is closed it is not Ready. */
export const isRunning = ({ metadata, status }: Pod): boolean =>
  metadata.deletionTimestamp === undefined && status?.phase === "Running";

/** The ready proxies of a fleet, or all running ones. @throws Failure if there is none */
export function readyOf(pods: readonly Pod[], policy: string, { anyRunning = false } = {}): Pod[] {
  const ready = pods.filter(anyRunning ? isRunning : isReady);
  if (ready.length > 0) return ready;
  const has = pods.length === 0 ? "it has no pod" : `none of its pods (${pods.length}) is`;
  throw new Failure(
    `policy ${policy} has no ${anyRunning ? "running" : "ready"} proxy: ${has}; see kubectl egress status ${policy}`,
  );
}

/** Fails if the caller may ask no proxy, since all answers would be empty. @throws Failure */
export function requireAnswer(results: readonly { pod: Pod; error?: unknown }[]): void {
  if (results.some(({ error }) => error === undefined)) return;
  const [first] = results;
  if (first === undefined) return;
  const missing = missingRight(first.error);
  if (missing !== undefined) throw new Failure(`missing right: ${missing} (docs/kubectl.md lists the roles)`);
  throw new Failure(`no proxy answers; ${first.pod.metadata.name}: ${whyNot(first.error)}`);
}
