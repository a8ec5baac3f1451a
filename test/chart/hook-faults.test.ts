import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { createServer, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { finish } from "../harness/finish.ts";
import { tempFolder } from "../harness/proxy.ts";

/** Answers of API servers that the pre-delete hook has to survive, or has to report. upgrade.test.ts runs it on a real one. */

const FINALIZER = "egress.outrider.dev/in-use";
const token = join(tempFolder(), "token");
writeFileSync(token, "s3cret");
const SCRIPT = new URL("../../charts/outrider/files/hooks.mjs", import.meta.url).pathname;
const DEPLOYMENT = "/apis/apps/v1/namespaces/system/deployments/operator";
const GROUP = "/apis/egress.outrider.dev/v1alpha1";
const POLICY = `${GROUP}/namespaces/convoy/egresspolicies/webhooks`;

type Answer = readonly [status: number, body: object | string];
/** Answers to a request, by method and path without query: undefined for the answer of a healthy server, null for none. */
type Fault = (request: string, count: number, query: string) => Answer | undefined | null;

const status = (code: number, reason: string): Answer => [code, { kind: "Status", message: reason }];

function healthy(request: string): Answer {
  const policy = { metadata: { namespace: "convoy", name: "webhooks", finalizers: [FINALIZER] } };
  if (request === `GET ${DEPLOYMENT}`)
    return [200, { metadata: { annotations: { "meta.helm.sh/release-name": "o" } } }];
  if (request === `PATCH ${DEPLOYMENT}/scale`) return [200, {}];
  if (request === "GET /api/v1/namespaces/system/pods") return [200, { items: [] }];
  if (request === `GET ${GROUP}/egresspolicies`) return [200, { items: [policy], metadata: {} }];
  if (request === `GET ${POLICY}` || request === `PATCH ${POLICY}`) return [200, policy];
  return status(404, `${request} does not exist`);
}

function send(response: ServerResponse, [code, body]: Answer): void {
  response.writeHead(code).end(typeof body === "string" ? body : JSON.stringify(body));
}

/** Runs the hook before an uninstall against an API server with this fault. */
async function uninstall(fault: Fault, env: NodeJS.ProcessEnv = {}) {
  const counts = new Map<string, number>();
  const server = createServer(({ method, url }, response) => {
    const [path, query = ""] = url!.split("?") as [string, string?];
    const request = `${method} ${path}`;
    const count = (counts.get(request) ?? 0) + 1;
    counts.set(request, count);
    const answer = fault(request, count, query);
    if (answer !== null) send(response, answer ?? healthy(request));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const own = {
    ...{ TASK: "uninstall", NAMESPACE: "system", DEPLOYMENT: "operator", SELECTOR: "a=b", NAMESPACES: "" },
    ...{
      PATIENCE_MS: "20000",
      TOKEN_FILE: token,
      API_URL: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    },
  };
  const child = spawn(process.execPath, [SCRIPT], {
    env: { PATH: process.env.PATH, ...own, ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  try {
    return { ...(await finish(child)), calls: counts };
  } finally {
    server.closeAllConnections();
    server.close();
  }
}

const FREED = /^the operator system\/operator has ended\nconvoy\/webhooks: removed the finalizer\n$/;

for (const [what, wanted, answers] of [
  ["a page of a load balancer", `PATCH ${DEPLOYMENT}/scale`, [[503, "<html>no backend</html>"]]],
  ["rights that come late", `GET ${DEPLOYMENT}`, [status(403, "forbidden"), status(403, "forbidden")]],
  [
    "a policy that changed meanwhile",
    `PATCH ${POLICY}`,
    [status(422, "the server rejected our request"), status(409, "Conflict")],
  ],
  [
    "an API server that ends the connection",
    "GET /api/v1/namespaces/system/pods",
    [status(500, "etcd leader changed")],
  ],
] as const satisfies readonly (readonly [string, string, readonly Answer[]])[]) {
  test(`the hook before an uninstall survives ${what}`, async () => {
    const { status, stdout, stderr } = await uninstall((request, count) =>
      request === wanted ? answers[count - 1] : undefined,
    );
    assert.equal(status, 0, stderr);
    assert.match(stdout, FREED);
  });
}

test("the hook lists policies again if their list expired", async () => {
  const list = `GET ${GROUP}/egresspolicies`;
  const {
    status: code,
    stdout,
    stderr,
  } = await uninstall((request, count, query) => {
    if (request !== list) return undefined;
    if (query.includes("continue=next")) return status(410, "The provided continue parameter is too old");
    return count > 1 ? undefined : [200, { items: [], metadata: { continue: "next" } }];
  });
  assert.equal(code, 0, stderr);
  assert.match(stdout, FREED);
});

test("the hook needs neither a Deployment, nor policies, nor the CRD", async () => {
  for (const answer of [
    status(404, "the server could not find the requested resource"),
    [200, { items: [], metadata: {} }],
  ] as const) {
    const {
      status: code,
      stdout,
      stderr,
    } = await uninstall((request) => {
      if (request.includes("/deployments/")) return status(404, "not found");
      return request.includes(GROUP) ? answer : undefined;
    });
    assert.equal(code, 0, stderr);
    assert.match(stdout, /^the operator system\/operator has ended\n$/);
  }
});

test("the hook does not wait for evicted pods of the operator", async () => {
  const pods = (phase: string) => [200, { items: [{ metadata: { name: "operator-1" }, status: { phase } }] }] as const;
  const list = "GET /api/v1/namespaces/system/pods";
  const { status, stderr } = await uninstall((request) => (request === list ? pods("Failed") : undefined));
  assert.equal(status, 0, stderr);
  const other = await uninstall((request) => (request === list ? pods("Running") : undefined), { PATIENCE_MS: "1000" });
  assert.equal(other.status, 1);
  assert.match(other.stderr, /pods of the operator still run: operator-1/);
});

test("the hook skips a namespace that was deleted", async () => {
  const {
    status: code,
    stdout,
    stderr,
  } = await uninstall(
    (request) => {
      if (request === `GET ${GROUP}/namespaces/gone/egresspolicies`) return status(403, "gone is forbidden");
      return request === `GET ${GROUP}/namespaces/convoy/egresspolicies`
        ? healthy(`GET ${GROUP}/egresspolicies`)
        : undefined;
    },
    { NAMESPACES: "gone,convoy" },
  );
  assert.equal(code, 0, stderr);
  assert.match(stdout, /namespace gone is skipped.*403.*\nconvoy\/webhooks: removed the finalizer\n$/s);
});

test("the hook names the request that fails, within its time", async () => {
  const patience = { PATIENCE_MS: "1500" };
  const denied = await uninstall(
    (request) => (request === `GET ${DEPLOYMENT}` ? status(403, "no") : undefined),
    patience,
  );
  assert.equal(denied.status, 1);
  assert.match(denied.stderr, new RegExp(`^GET ${DEPLOYMENT}: 403 no`));
  assert.deepEqual([...denied.calls.keys()], [`GET ${DEPLOYMENT}`], "nothing was changed");
  const silent = await uninstall((request) => (request === `GET ${DEPLOYMENT}` ? null : undefined), patience);
  assert.equal(silent.status, 1);
  assert.match(silent.stderr, new RegExp(`^GET ${DEPLOYMENT}: .*timeout`));
});
