// Helm hooks of the chart, by the variable TASK: `test` (helm test) and `uninstall` (pre-delete).
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { connect } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

const TIMEOUT_MS = 10_000;
const PAUSE_MS = 500;
const LAST_MS = 3000;
/** Rights of a new account can take a moment. */
const DENIED_MS = 5000;
const PAGE = 500;
const FINALIZER = "egress.outrider.dev/in-use";
/** Annotations that Helm and Argo CD set on the objects that they install. */
const MANAGERS = ["meta.helm.sh/release-name", "argocd.argoproj.io/tracking-id"];
const JSON_TYPE = "application/json";
const { env } = process;
const TOKEN_FILE = env.TOKEN_FILE ?? "/var/run/secrets/kubernetes.io/serviceaccount/token";
const end = Date.now() + Number(env.PATIENCE_MS ?? 60_000);

function apiUrl() {
  const { API_URL, KUBERNETES_SERVICE_HOST: host = "", KUBERNETES_SERVICE_PORT: port } = env;
  return API_URL ?? `https://${host.includes(":") ? `[${host}]` : host}:${port}`;
}

/** Ends with the patience, so that the Job has time to log the reason. The last call has enough time for an answer. */
const timeout = () => AbortSignal.timeout(Math.max(LAST_MS, Math.min(TIMEOUT_MS, end - Date.now())));

/** Calls the API server, which NODE_EXTRA_CA_CERTS authenticates. */
async function call(method, path, body, type = JSON_TYPE) {
  const headers = { authorization: `Bearer ${readFileSync(TOKEN_FILE, "utf8").trim()}`, "content-type": type };
  const request = { method, headers, signal: timeout() };
  if (body !== undefined) request.body = JSON.stringify(body);
  try {
    const response = await fetch(apiUrl() + path, request);
    const text = await response.text();
    return { status: response.status, body: parsed(text) ?? { message: text.slice(0, 200) } };
  } catch (error) {
    throw new Error(`${method} ${path}: ${error.message}`, { cause: error.cause });
  }
}

/** JSON of an answer; undefined if it has none, as that of a load balancer. */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

const failed = (method, path, { status, body }) =>
  Object.assign(new Error(`${method} ${path}: ${status} ${body.message ?? ""}`), { status });

/** The body of an answer below 300; undefined if the object does not exist. */
async function done(method, path, body, type) {
  const answer = await call(method, path, body, type);
  if (answer.status === 404) return undefined;
  if (answer.status >= 300) throw failed(method, path, answer);
  return answer.body;
}

/** Retries, since operators may still be starting, Services may have no endpoints yet, and API servers restart. */
async function eventually(check) {
  for (;;) {
    try {
      return await check();
    } catch (error) {
      if (Date.now() > end) throw error;
      await sleep(PAUSE_MS);
    }
  }
}

async function checkMetrics(url) {
  const response = await fetch(url, { signal: AbortSignal.timeout(TIMEOUT_MS) });
  const policies = /^outrider_operator_policies (\d+)$/m.exec(await response.text());
  if (policies === null) throw new Error(`${url} is not the metrics page of the operator: status ${response.status}`);
  console.log(`an operator answers and watches ${policies[1]} policies`);
}

async function checkPort(host, port) {
  const socket = connect({ host, port: Number(port) });
  try {
    await once(socket, "connect", { signal: AbortSignal.timeout(TIMEOUT_MS) });
  } finally {
    socket.destroy();
  }
  console.log(`${host}:${port} accepts connections`);
}

/** The webhook rejects a pod that requests a missing policy. The dry run stores no pod. */
async function checkWebhook(namespace) {
  const name = "outrider-helm-test";
  const securityContext = {
    allowPrivilegeEscalation: false,
    runAsNonRoot: true,
    capabilities: { drop: ["ALL"] },
    seccompProfile: { type: "RuntimeDefault" },
  };
  const pod = {
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name, labels: { "egress.outrider.dev/policy": name } },
    spec: { containers: [{ name, image: name, securityContext }] },
  };
  const path = `/api/v1/namespaces/${namespace}/pods?dryRun=All`;
  const answer = await call("POST", path, pod);
  if (answer.status < 300) throw new Error(`the API server does not call the webhook for namespace ${namespace}`);
  if (!/"inject\.egress\.outrider\.dev" denied the request/.test(answer.body.message))
    throw failed("POST", path, answer);
  console.log("the API server calls the webhook and trusts its certificate");
}

async function test() {
  await eventually(() => checkMetrics(env.METRICS_URL));
  if (env.WEBHOOK_HOST !== undefined) await eventually(() => checkPort(env.WEBHOOK_HOST, env.WEBHOOK_PORT));
  if (env.PROBE_NAMESPACE !== undefined) await eventually(() => checkWebhook(env.PROBE_NAMESPACE));
}

const GROUP = "/apis/egress.outrider.dev/v1alpha1";

/** All objects of a collection. None if the CRD does not exist. */
async function listOf(path) {
  const all = [];
  let next = "";
  do {
    const list = await done("GET", `${path}?limit=${PAGE}&continue=${encodeURIComponent(next)}`);
    all.push(...(list?.items ?? []));
    next = list?.metadata.continue ?? "";
  } while (next !== "");
  return all;
}

/** Policies of a namespace. The roles of the account are gone with a namespace that was deleted. */
async function policiesIn(namespace) {
  const denied = Date.now() + DENIED_MS;
  return eventually(async () => {
    try {
      return await listOf(`${GROUP}/namespaces/${namespace}/egresspolicies`);
    } catch (error) {
      if (error.status !== 403 || Date.now() < denied) throw error;
      console.log(
        `namespace ${namespace} is skipped, since it or the role of this Job in it was deleted: ${error.message}`,
      );
      return [];
    }
  });
}

/** Policies of these namespaces, or of all. */
async function policiesOf(namespaces) {
  const all = [];
  for (const namespace of namespaces) all.push(...(await policiesIn(namespace)));
  if (namespaces.length === 0) all.push(...(await eventually(() => listOf(`${GROUP}/egresspolicies`))));
  return all.map(({ metadata }) => ({
    ...metadata,
    path: `${GROUP}/namespaces/${metadata.namespace}/egresspolicies/${metadata.name}`,
  }));
}

const inUse = ({ finalizers = [] }) => finalizers.includes(FINALIZER);

async function checkUse() {
  const used = (await policiesOf([])).filter(inUse);
  if (used.length === 0) return;
  const names = used.map(({ namespace, name }) => `  ${namespace}/${name}\n`).join("");
  throw new Error(
    `the uninstall would delete the CRD, and with it policies that pods use:\n${names}Nothing was changed. Fix: stop the pods, or run helm upgrade --reuse-values with --set crds.keep=true, or with --set uninstall.force=true`,
  );
}

/**
 * Whether a program installed the release that runs hooks only when they are due. The output of `helm template` contains the
 * Job as well, and `kubectl apply` would run it at once.
 */
async function isManaged(namespace, name) {
  const deployment = await eventually(() => done("GET", `/apis/apps/v1/namespaces/${namespace}/deployments/${name}`));
  const annotations = deployment?.metadata.annotations ?? {};
  return deployment === undefined || MANAGERS.some((key) => annotations[key] !== undefined);
}

/** A running operator would set the finalizer again. */
async function stopOperator(namespace, name, selector) {
  const deployment = `/apis/apps/v1/namespaces/${namespace}/deployments/${name}/scale`;
  const merge = "application/merge-patch+json";
  await eventually(() => done("PATCH", deployment, { spec: { replicas: 0 } }, merge));
  const pods = `/api/v1/namespaces/${namespace}/pods?labelSelector=${encodeURIComponent(selector)}`;
  await eventually(async () => {
    const { items } = await done("GET", pods);
    // Evicted pods remain as long as their ReplicaSet.
    const running = items.filter(({ status }) => !["Failed", "Succeeded"].includes(status?.phase));
    if (running.length === 0) return;
    throw new Error(`pods of the operator still run: ${running.map(({ metadata }) => metadata.name)}`);
  });
  console.log(`the operator ${namespace}/${name} has ended`);
}

async function removeFinalizer({ path, namespace, name }) {
  const { metadata } = (await done("GET", path)) ?? { metadata: {} };
  const at = (metadata.finalizers ?? []).indexOf(FINALIZER);
  if (at === -1) return;
  const place = `/metadata/finalizers/${at}`;
  // The test fails if another program has changed the list.
  const patch = [
    { op: "test", path: place, value: FINALIZER },
    { op: "remove", path: place },
  ];
  await done("PATCH", path, patch, "application/json-patch+json");
  const ends = metadata.deletionTimestamp === undefined ? "" : "; its deletion continues";
  console.log(`${namespace}/${name}: removed the finalizer${ends}`);
}

async function uninstall() {
  const namespaces = (env.NAMESPACES ?? "").split(",").filter((name) => name !== "");
  if (!(await isManaged(env.NAMESPACE, env.DEPLOYMENT))) {
    console.log(`nothing is changed: neither Helm nor Argo CD installed ${env.NAMESPACE}/${env.DEPLOYMENT}`);
    return;
  }
  if (env.CHECK_USE === "true") await checkUse();
  await stopOperator(env.NAMESPACE, env.DEPLOYMENT, env.SELECTOR);
  for (const policy of (await policiesOf(namespaces)).filter(inUse)) await eventually(() => removeFinalizer(policy));
}

try {
  await { test, uninstall }[env.TASK]();
} catch (error) {
  console.error(error.message, error.cause ?? "");
  process.exitCode = 1;
}
