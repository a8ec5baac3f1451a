import assert from "node:assert/strict";
import { once } from "node:events";
import { request } from "node:http";
import { after, before, test } from "node:test";
import type { Browser, Page } from "playwright-core";
import type { DetailAnswer, ListAnswer } from "../../operator/pages/policies.ts";
import { BOOT, controlPlaneMissing } from "../cluster/control-plane.ts";
import { freePort } from "../cluster/processes.ts";
import { applyPolicy, INVALID, startOperator, untilCondition } from "../operator/operator.ts";
import { type Stage, startStage } from "../operator/stage.ts";
import { axe, browserMissing, openPage, picture, scrollsSideways, startBrowser, type Watched } from "./browser.ts";
import { until } from "./sse.ts";

/** The page of the operator in real Chromium: a real operator on a real API server, with real proxies. */

const skip = controlPlaneMissing({ kwokNodes: 3 }) ?? browserMissing() ?? false;
let { plane, operator } = {} as Stage;
let browser: Browser;
let port: number;
let origin: string;
/** The schema allows it, and the operator rejects it: no grant exists. */
const NOT_GRANTED = {
  ...{ nat: { provider: "NodeAddress" }, staticIPs: [{ address: "203.0.113.40" }] },
  authentication: { mode: "Basic", secretRef: { name: "proxy-passwords" } },
};
const HOSTILE = "<img src=x onerror=\"document.title='hacked'\"><script>document.title='hacked'</script>";

before(async () => {
  if (skip) return;
  port = await freePort();
  origin = `http://localhost:${port}`;
  ({ plane, operator } = await startStage({
    plane: { kwokNodes: 3 },
    namespaces: ["convoy", "billing"],
    operator: () => ({ args: ["--scrape-seconds=1", "--resync-seconds=5", `--page=127.0.0.1:${port}`] }),
  }));
  const staticIPs = [
    { address: "203.0.113.10" },
    { address: "203.0.113.11", phase: "Retiring" },
    { address: "203.0.113.12", phase: "Pending" },
  ];
  await applyPolicy(plane, "convoy", "webhooks", { preset: "Convoy", staticIPs });
  await applyPolicy(plane, "billing", "invoices", { mode: "Report", staticIPs: [{ address: "203.0.113.20" }] });
  await applyPolicy(plane, "billing", "partners", INVALID);
  const labels = { "egress.outrider.dev/policy": "webhooks" };
  await plane.apply("/api/v1/namespaces/convoy/pods/agent-1", {
    ...{ apiVersion: "v1", kind: "Pod", metadata: { name: "agent-1", namespace: "convoy", labels } },
    spec: { containers: [{ name: "agent", image: "sender:1" }] },
  });
  browser = await startBrowser();
  await untilCondition(plane, "convoy", "webhooks", "Ready", "True");
  await untilCondition(plane, "convoy", "webhooks", "WorkloadsInjected", "False");
  await untilCondition(plane, "billing", "invoices", "Ready", "True");
  await untilCondition(plane, "billing", "partners", "Accepted", "False");
}, BOOT);
after(async () => browser?.close());

const json = async <T>(path: string): Promise<T> => (await (await fetch(`${origin}${path}`)).json()) as T;
const detail = (namespace: string, name: string) =>
  json<DetailAnswer>(`/policy.json?namespace=${namespace}&name=${name}`);
const assertClean = ({ errors, foreign }: Watched) =>
  assert.deepEqual({ errors, foreign }, { errors: [], foreign: [] });
const names = (page: Page) => page.locator("#rows a").allInnerTexts();
const untilText = (page: Page, selector: string, text: string) =>
  page.locator(selector).filter({ hasText: text }).first().waitFor({ state: "attached" });
const untilNames = (page: Page, expected: string[]) =>
  until(async () => (await names(page)).join() === expected.join(), `the policies ${expected.join(", ")}`);
const ALL = ["billing/invoices", "billing/partners", "convoy/webhooks"];

const WIDE = { viewport: { width: 1280, height: 900 } };
const NARROW = { viewport: { width: 360, height: 740 } };

async function open(fragment: string, options: Parameters<typeof openPage>[2] = WIDE) {
  const opened = await openPage(browser, origin, options);
  await opened.page.goto(`${origin}/${fragment}`);
  await untilText(opened.page, "#updated", "as of");
  return opened;
}

/** Status and headers of an answer to these headers. */
async function ask(path: string, headers: Record<string, string>, method = "GET") {
  const sent = request({ host: "127.0.0.1", port, path, headers, method, agent: false }).end();
  const [response] = await once(sent, "response");
  response.resume();
  return { status: response.statusCode as number, headers: response.headers as Record<string, string> };
}

test("every path answers local pages only, and changes nothing", { skip }, async () => {
  const own = `127.0.0.1:${port}`;
  for (const path of ["/", "/policies.json", "/policy.json?namespace=convoy&name=webhooks"]) {
    const status = async (headers: Record<string, string>) => (await ask(path, headers)).status;
    assert.equal(await status({ host: own }), 200);
    assert.equal(await status({ host: "localhost:1", origin: "http://localhost:1" }), 200);
    assert.equal(await status({ host: "rebound.example" }), 403);
    assert.equal(await status({ host: own, origin: "https://foreign.example" }), 403);
    assert.equal(await status({ host: own, origin: "null" }), 403);
    assert.equal(await status({ host: own, "sec-fetch-site": "cross-site" }), 403);
    for (const method of ["POST", "PUT", "DELETE"]) assert.equal((await ask(path, { host: own }, method)).status, 405);
  }
  assert.equal((await ask("/policy.json?namespace=convoy&name=none", { host: own })).status, 404);
  assert.equal((await ask("/other", { host: own })).status, 404);
  assert.equal((await ask("//x/policies.json", { host: own })).status, 400);
  assert.equal((await ask(`/${"x".repeat(2000)}`, { host: own })).status, 400);
  const { headers } = await ask("/", { host: own });
  assert.match(
    headers["content-security-policy"]!,
    /^default-src 'none'; script-src 'sha256-[^']{44}'; style-src 'sha256-/,
  );
});

test("the ports of health and metrics have no page", { skip }, async () => {
  for (const url of [operator.health, operator.metrics]) {
    assert.equal((await operator.page(`${url}/`)).status, 404);
    assert.equal((await operator.page(`${url}/policies.json`)).status, 404);
  }
});

test("lists all policies, and filters them by namespace, name and state", { skip }, async () => {
  const { page, watched } = await open("");
  await untilNames(page, ALL);
  await picture(page, "operator-list");
  const verified = page.locator("#rows tr", { hasText: "webhooks" }).locator('[data-label="Verified IPs"]');
  assert.equal(await verified.textContent(), "off", "the policy has no verification");
  const heights = await page.locator("#rows a.name").evaluateAll((links) => links.map((link) => link.clientHeight));
  assert.ok(Math.max(...heights) < 30, "no name is broken while the window has room");
  await page.getByLabel("Namespace or name contains").fill("WEB");
  assert.deepEqual(await names(page), ["convoy/webhooks"]);
  await page.getByLabel("Namespace or name contains").fill("billing/");
  assert.deepEqual(await names(page), ["billing/invoices", "billing/partners"]);
  await page.getByLabel("State", { exact: true }).selectOption("False");
  assert.deepEqual(await names(page), ["billing/partners"]);
  assert.equal(await page.locator("#shown").textContent(), "1 of 3 policies.");
  await page.getByLabel("Namespace or name contains").fill("nothing");
  assert.equal(await page.locator("#none").textContent(), "No policy matches the filter.");
  await page.getByLabel("Namespace or name contains").fill("");
  await page.getByLabel("State", { exact: true }).selectOption("");
  await page.getByLabel("Namespace", { exact: true }).selectOption("convoy");
  assert.deepEqual(await names(page), ["convoy/webhooks"]);
  assertClean(watched);
  await page.context().close();
});

test("shows addresses, proxies with version and document, and why a pod is missed", { skip }, async () => {
  const { page, watched } = await open("#/convoy/webhooks");
  await untilText(page, "#ready", "Ready");
  await until(
    async () =>
      (await page.locator("#proxies tbody .pill.good").allInnerTexts()).filter((one) => one === "current").length === 2,
    "both proxies run the current document",
  );
  const rows = async (id: string) =>
    (await page.locator(`#${id} tbody tr`).allInnerTexts()).map((row) => row.split(/\t\n?|\n/));
  assert.deepEqual(
    (await rows("addresses")).map(([address, state, phase]) => [address, state, phase]),
    [
      ["203.0.113.10", "Assigned", "Active"],
      ["203.0.113.11", "Retiring", "Retiring"],
      ["203.0.113.12", "Spare", "Pending"],
    ],
  );
  assert.equal(await page.locator("#d-spare").textContent(), "1");
  assert.match((await rows("pods"))[0]!.join(" "), /^agent-1 missed created before the webhook ran/);
  assert.match((await rows("proxies"))[0]!.join(" "), /Ready .* 0\.1\.0 current/);
  assertClean(watched);
  await page.context().close();
});

test("hints at a spare address where the policy has none", { skip }, async () => {
  const { page, watched } = await open("#/billing/invoices");
  await untilText(page, "#notices", "A spare (Pending) address lets the fleet grow without a change at customers.");
  assertClean(watched);
  await page.context().close();
});

test("the timeline shows a rejection as it happens, then Events once it may list them", { skip }, async () => {
  const { page, watched } = await open("");
  await untilNames(page, ALL);
  // By keyboard only.
  await page.getByRole("link", { name: "convoy/webhooks" }).focus();
  await page.keyboard.press("Enter");
  await untilText(page, "#ready", "Ready");
  assert.equal(await page.evaluate("document.activeElement.id"), "name");
  const { replica } = await detail("convoy", "webhooks");
  await untilText(page, "#timeline-note", `since ${replica.since.slice(0, 10)} ${replica.since.slice(11, 19)} UTC`);
  await untilText(page, "#timeline-note", "no right to list Events; the chart grants it with page.enabled");
  await applyPolicy(plane, "convoy", "webhooks", { preset: "Convoy", ...NOT_GRANTED });
  await untilText(page, "#ready", "Not ready");
  await untilText(page, "#notices", "The fleet runs the last accepted one, which this page shows.");
  await untilText(page, "#timeline li.bad", "Accepted");
  const [accepted] = await page
    .locator("#timeline li.bad", { hasText: "(--grants)" })
    .filter({ hasText: "Accepted" })
    .allInnerTexts();
  assert.match(accepted!, /True →\s+False\s+NotGranted/);
  assert.equal((await detail("convoy", "webhooks")).policy.addresses.length, 3, "those of the spec in force");
  await page.setViewportSize({ width: 1280, height: 1240 });
  await picture(page, "operator-page", false);
  const kind = "ClusterRole";
  const rbac = "rbac.authorization.k8s.io";
  await plane.apply(`/apis/${rbac}/v1/clusterroles/page`, {
    ...{ apiVersion: `${rbac}/v1`, kind, metadata: { name: "page" } },
    rules: [{ apiGroups: [""], resources: ["events"], verbs: ["list"] }],
  });
  await plane.apply(`/apis/${rbac}/v1/clusterrolebindings/page`, {
    ...{ apiVersion: `${rbac}/v1`, kind: "ClusterRoleBinding", metadata: { name: "page" } },
    roleRef: { apiGroup: rbac, kind, name: "page" },
    subjects: [{ kind: "ServiceAccount", name: "outrider-operator", namespace: "outrider-system" }],
  });
  const now = new Date().toISOString().replace(/\.\d+/, "");
  await plane.apply("/api/v1/namespaces/convoy/events/hostile", {
    ...{ apiVersion: "v1", kind: "Event", metadata: { name: "hostile", namespace: "convoy" } },
    involvedObject: { kind: "EgressPolicy", name: "webhooks", namespace: "convoy" },
    ...{ type: "Warning", reason: "Hostile", message: HOSTILE, count: 3, firstTimestamp: now, lastTimestamp: now },
  });
  await untilText(page, "#timeline", HOSTILE);
  assert.equal(await page.title(), "convoy/webhooks · outrider operator");
  await picture(page, "operator-policy");
  await plane.delete("/api/v1/namespaces/convoy/events/hostile");
  const { policies } = await json<ListAnswer>("/policies.json");
  assert.deepEqual(
    policies.map(({ name, provider, inForce }) => [name, provider, inForce]),
    [
      ["invoices", "External", "newest"],
      ["partners", "External", "none"],
      ["webhooks", "External", "former"],
    ],
  );
  await page.goBack();
  await untilText(page, "#rows tr.problem", "convoy/webhooks");
  await until(
    async () => (await page.evaluate("document.activeElement.textContent")) === "convoy/webhooks",
    "the link has the focus",
  );
  assertClean(watched);
  await page.context().close();
});

for (const colorScheme of ["light", "dark"] as const) {
  for (const [name, size] of Object.entries({ wide: WIDE, narrow: NARROW })) {
    test(`is accessible in ${colorScheme} and ${name}`, { skip }, async () => {
      const { page, watched } = await open("", { ...size, colorScheme });
      await untilNames(page, ALL);
      assert.deepEqual(await axe(page), []);
      assert.equal(await scrollsSideways(page), false, "list");
      await picture(page, `operator-list-${colorScheme}-${name}`);
      await page.getByRole("link", { name: "convoy/webhooks" }).click();
      await untilText(page, "#ready", "Not ready");
      assert.deepEqual(await axe(page), []);
      assert.equal(await scrollsSideways(page), false, "detail");
      await picture(page, `operator-policy-${colorScheme}-${name}`);
      assertClean(watched);
      await page.context().close();
    });
  }
}

test("a policy that does not exist is named as missing, also after its deletion", { skip }, async () => {
  const { page, watched } = await openPage(browser, origin, WIDE);
  await page.goto(`${origin}/#/billing/partners`);
  await untilText(page, "#ready", "Not ready");
  await plane.delete("/apis/egress.outrider.dev/v1alpha1/namespaces/billing/egresspolicies/partners");
  await untilText(page, "#ready", "Missing");
  // Chromium itself reports an answer 404 on the console.
  assert.deepEqual(watched.foreign, []);
  assert.ok(
    watched.errors.every((error) => error.includes("404")),
    watched.errors.join(),
  );
  await page.context().close();
});

test("a standby replica shows its caches and names the leader", { skip }, async () => {
  const { replica } = await json<ListAnswer>("/policies.json");
  assert.deepEqual([replica.leads, replica.leader], [true, replica.identity]);
  const other = await freePort();
  const standby = await startOperator(plane, { name: "standby", args: [`--page=127.0.0.1:${other}`] });
  const at = `http://localhost:${other}`;
  const { page, watched } = await openPage(browser, at, WIDE);
  await until(() => standby.log().includes('"pagePort"'), "the page is served");
  await page.goto(`${at}/#/convoy/webhooks`);
  await untilText(page, "#role", "Standby replica");
  await untilText(page, "#replica", `${replica.identity} leads. This page shows the caches of this replica.`);
  await untilText(page, "#conditions", "PolicyDistributed");
  await page.context().close();
  await standby.stop();
  assert.deepEqual(watched.foreign, []);
});

test("the page reports that the operator has ended", { skip }, async () => {
  const { page } = await open("");
  await operator.stop();
  await untilText(page, "#lost", "The operator has not answered since");
  assert.equal(await page.locator("#lost").isVisible(), true);
  await page.context().close();
});
