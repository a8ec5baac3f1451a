import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { after, before, test } from "node:test";
import type { Browser, Page } from "playwright-core";
import { freePort } from "../cluster/processes.ts";
import { basic, passwordFolder } from "../harness/clients.ts";
import { OPEN_LOOPBACK, type ProxyHandle, startProxy } from "../harness/proxy.ts";
import { exchange, listen } from "../harness/raw.ts";
import { axe, browserMissing, openPage, picture, scrollsSideways, startBrowser, type Watched } from "./browser.ts";
import { readEvents, until } from "./sse.ts";

/** The page of the proxy in real Chromium, over a real proxy with real requests. */

const HOSTS = `127.0.0.1 hooks.example api.customer.example echo.example echo.other.example
10.0.0.5 intranet.example
`;
const policyOf = (port: number) =>
  JSON.stringify({
    version: 2,
    policy: "convoy/webhooks",
    defaultAction: "Deny",
    deny: [{ name: "competitors", hosts: ["*.competitor.example"] }],
    allow: [
      { name: "receivers", hosts: ["hooks.example", "*.customer.example", "intranet.example", "*.other.example"] },
    ],
    clients: [
      { name: "billing" },
      { name: "orders", deny: [{ name: "no-customers", hosts: ["*.customer.example"] }] },
      { name: "trial", mode: "Report", deny: [{ name: "trial-only", hosts: ["api.customer.example"] }] },
    ],
    staticIPs: [{ address: STATIC_IP }],
    verification: { echoURLs: [`http://echo.example:${port}/ip`, `http://echo.other.example:${port}/ip`] },
  });
/** Echo servers see it behind the NAT of the network. */
const STATIC_IP = "203.0.113.10";
const PASSWORDS = { billing: "b-pass", orders: "o-pass", trial: "t-pass" };

const missing = browserMissing();
let far: Awaited<ReturnType<typeof listen>>;
let proxy: ProxyHandle;
let browser: Browser;
let origin: string;
/** Nothing listens on it. */
let closedPort: number;

before(async () => {
  if (missing !== null) return;
  far = await listen((socket) => {
    socket.on("data", (head) => {
      const body = String(head).startsWith("GET /ip") ? STATIC_IP : "ok";
      socket.end(`HTTP/1.1 200 OK\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
    });
  });
  proxy = await startProxy({
    policy: policyOf(far.port),
    args: [...OPEN_LOOPBACK, "--password-dir", passwordFolder(PASSWORDS)],
    hosts: HOSTS,
  });
  await proxy.untilStatus(({ verification }) => verification.every(({ verified }) => verified));
  origin = `http://localhost:${proxy.adminPort}`;
  closedPort = await freePort();
  browser = await startBrowser();
});
after(async () => {
  await browser?.close();
  await proxy?.stop();
  await far?.close();
});

const skip = missing ?? false;

/** Sends a request for a host as a client; returns the status line. */
async function send(host: string, client: keyof typeof PASSWORDS, port = far.port): Promise<string> {
  const fields = `Connection: close\r\n${basic(`${client}:${PASSWORDS[client]}`)}`;
  const answer = await exchange(proxy.port, `GET http://${host}:${port}/ HTTP/1.1\r\nHost: ${host}\r\n${fields}\r\n`);
  return answer.split("\r\n")[0]!;
}

const assertClean = ({ errors, foreign }: Watched) =>
  assert.deepEqual({ errors, foreign }, { errors: [], foreign: [] });

/** Text of the shown elements. */
const text = async (page: Page, selector: string) => (await page.locator(selector).allInnerTexts()).join("\n");
/** Texts of a column of the shown decisions, the newest first. */
const column = (page: Page, name: string) => page.locator(`#rows tr.row td.${name}`).allInnerTexts();
/** Waits until so many decisions are shown. */
const untilRows = (page: Page, count: number) =>
  until(async () => (await page.locator("#rows tr.row").count()) === count, `${count} decisions`);
const untilText = (page: Page, selector: string, text: string) =>
  page.locator(selector).filter({ hasText: text }).first().waitFor({ state: "attached" });

const WIDE = { viewport: { width: 1280, height: 900 } };
const NARROW = { viewport: { width: 360, height: 740 } };

async function open(options: Parameters<typeof openPage>[2] = WIDE) {
  const opened = await openPage(browser, origin, options);
  await opened.page.goto(`${origin}/`);
  await untilText(opened.page, "#stream", "Live");
  await untilText(opened.page, "#state", "Ready");
  return opened;
}

/** One request of each kind of decision; the newest is a refusal because of an address. */
async function sendAll(): Promise<void> {
  assert.match(await send("hooks.example", "billing"), / 200 /);
  assert.match(await send("x.competitor.example", "billing", 443), / 403 egress-denied: /);
  assert.match(await send("api.customer.example", "orders"), / 403 egress-denied: /);
  assert.match(await send("api.customer.example", "trial"), / 200 /);
  assert.match(await send("closed.customer.example", "orders"), / 403 /);
  assert.match(await send("hooks.example", "trial", closedPort), / 502 egress-connect: /);
  assert.match(await send("intranet.example", "billing"), / 403 egress-denied: /);
}
const SENT = 7;

test("shows what runs, and what echo servers saw", { skip }, async () => {
  const { page, watched } = await open();
  const { policy } = await proxy.untilStatus(() => true);
  assert.equal(await text(page, "#policy"), "convoy/webhooks, with 3 clients");
  assert.equal(await text(page, "#hash"), policy!.hash);
  assert.equal(await page.title(), "convoy/webhooks · outrider proxy");
  assert.equal(await text(page, "#listen"), `127.0.0.1:${proxy.port}`);
  const sources = await text(page, "#sources");
  assert.match(sources, /ipv4\s+proven/);
  for (const host of ["echo.example", "echo.other.example"]) {
    assert.ok(sources.includes(`${STATIC_IP} seen by http://${host}:${far.port}/ip`), sources);
  }
  assertClean(watched);
  await page.context().close();
});

test("filters live decisions by verdict, host and client", { skip }, async () => {
  const { page, watched } = await open();
  await sendAll();
  await untilRows(page, SENT);
  assert.deepEqual(await column(page, "verdict"), [
    ...["denied", "failed", "denied", "would deny", "denied", "denied", "allowed"],
  ]);
  await page.selectOption("#f-verdict", "denied");
  assert.deepEqual(await column(page, "who"), ["billing", "orders", "orders", "billing"]);
  await page.fill("#f-host", "customer");
  assert.deepEqual(await column(page, "target"), [
    `closed.customer.example:${far.port}`,
    `api.customer.example:${far.port}`,
  ]);
  await page.selectOption("#f-verdict", "");
  await page.fill("#f-client", "trial");
  assert.deepEqual(await column(page, "why"), ["denied-rule by rule trial-only; the policy only reports it"]);
  // Filters hold for decisions that arrive later.
  await send("hooks.example", "billing");
  await send("api.customer.example", "trial");
  await untilRows(page, 2);
  await untilText(page, "#shown", `2 of the last ${SENT + 2} decisions match`);
  await page.fill("#f-host", "nothing.example");
  await untilText(page, "#empty", "No decision matches the filter.");
  assertClean(watched);
  await page.context().close();
});

test("pauses, and shows what arrived in the meantime", { skip }, async () => {
  const { page, watched } = await open();
  await send("hooks.example", "billing");
  await untilRows(page, 1);
  await page.getByRole("button", { name: "Pause" }).click();
  await send("x.competitor.example", "billing", 443);
  await untilText(page, "#pause", "Resume (1 new)");
  assert.deepEqual(await column(page, "verdict"), ["allowed"]);
  await page.getByRole("button", { name: "Resume" }).click();
  await untilRows(page, 2);
  assert.deepEqual(await column(page, "verdict"), ["denied", "allowed"]);
  assertClean(watched);
  await page.context().close();
});

test("explains an allowed and a denied target", { skip }, async () => {
  const { page, watched } = await open();
  const explain = async (target: string, client: string) => {
    await page.fill("#target", target);
    await page.fill("#client", client);
    await page.getByRole("button", { name: "Explain", exact: true }).click();
    await untilText(page, "#answer", new URL(target).host);
    return text(page, "#answer");
  };
  const allowed = await explain(`http://hooks.example:${far.port}/orders`, "billing");
  assert.match(allowed, /allowed by rule receivers/);
  assert.match(allowed, /127\.0\.0\.1\s+loopback\s+allowed/);
  assert.match(allowed, /The sender sees\s+the answer of the target/);
  const denied = await explain("https://intranet.example/", "billing");
  assert.match(denied, /10\.0\.0\.5\s+private\s+refused/);
  assert.match(
    denied,
    /egress-denied: intranet\.example resolves to a private address \(10\.0\.0\.0\/8\); policy convoy\/webhooks/,
  );
  assert.match(await text(page, "#spoken"), /^intranet\.example:443: denied\. /);
  // From a decision.
  await send("api.customer.example", "orders");
  await page.getByRole("button", { name: `api.customer.example:${far.port}` }).click();
  assert.match(await text(page, "#rows tr.more"), /rule\s+no-customers/);
  await page.getByRole("button", { name: "Explain this target" }).click();
  await untilText(page, "#answer", "denied by rule no-customers");
  assertClean(watched);
  await page.context().close();
});

test("counts refusals by reason, as a picture and as text", { skip }, async () => {
  const { page, watched } = await open();
  await sendAll();
  await page.locator('#chart[aria-label*="denied-rule "]').waitFor();
  assert.match((await page.getAttribute("#chart", "aria-label"))!, /^Refusals and failures in the last 15 minutes: /);
  assert.ok((await page.locator("#chart rect").count()) > 0);
  await page.getByText("Show the numbers").click();
  assert.match(await text(page, "#numbers"), /Minute\s+allowed\s+denied\s+address\s+denied-rule/);
  assertClean(watched);
  await page.context().close();
});

test("a reason keeps its colour when another one becomes more frequent", { skip }, async () => {
  const { page, watched } = await open();
  const colours = async (): Promise<Record<string, string>> =>
    Object.fromEntries(
      await page
        .locator("#legend li")
        .evaluateAll((items) => items.map((item) => [item.firstChild!.textContent!.trim(), item.className])),
    );
  await sendAll();
  await untilText(page, "#legend", "refused");
  const before = await colours();
  const first = await text(page, "#legend li:first-child");
  for (let i = 0; i < 60; i++) await send("intranet.example", "billing");
  await page.locator("#legend li:first-child").filter({ hasText: "address" }).waitFor();
  assert.match(first, /^denied-rule/);
  assert.deepEqual(await colours(), before);
  assert.deepEqual(
    new Set(await page.locator("#chart rect").evaluateAll((parts) => parts.map((part) => part.getAttribute("class")))),
    new Set(Object.values(before)),
  );
  assertClean(watched);
  await page.context().close();
});

test("a target that is longer than a request gets a reason", { skip }, async () => {
  const { page } = await open();
  await page.fill("#target", `https://${"x".repeat(40_000)}.example/`);
  await page.keyboard.press("Enter");
  await untilText(page, "#answer .notice", "too long");
  await page.context().close();
});

test("shows that an explanation takes time", { skip }, async () => {
  const { page, watched } = await open();
  const { promise: resolved, resolve } = Promise.withResolvers<void>();
  await page.route("**/explain?*", async (route) => {
    await resolved;
    await route.continue();
  });
  await page.fill("#target", "https://intranet.example/");
  await page.fill("#client", "billing");
  await page.keyboard.press("Enter");
  await untilText(page, "#answer[aria-busy=true]", "Waiting for the proxy");
  await untilText(page, "#spoken", "Waiting for the proxy");
  resolve();
  await untilText(page, "#answer:not([aria-busy])", "egress-denied");
  assertClean(watched);
  await page.context().close();
});

for (const colorScheme of ["light", "dark"] as const) {
  for (const [name, window] of Object.entries({ wide: WIDE, narrow: NARROW })) {
    test(`has no accessibility violation: ${name}, ${colorScheme}`, { skip }, async () => {
      const { page, watched } = await open({ ...window, colorScheme, reducedMotion: "reduce" });
      await sendAll();
      await send(`${"long-".repeat(11)}name.${"label-".repeat(9)}end.customer.example`, "orders");
      await untilRows(page, SENT + 1);
      await page.locator("#rows tr.row button").nth(1).click();
      await page.fill("#target", "https://intranet.example/");
      await page.fill("#client", "billing");
      await page.keyboard.press("Enter");
      await untilText(page, "#answer", "egress-denied");
      await page.getByText("Show the numbers").click();
      const background = await page.evaluate("getComputedStyle(document.body).backgroundColor");
      assert.equal(background, colorScheme === "light" ? "rgb(244, 246, 249)" : "rgb(14, 19, 25)");
      await picture(page, `proxy-${name}-${colorScheme}`);
      assert.equal(await scrollsSideways(page), false, "no part is wider than the window");
      assert.deepEqual(await axe(page), []);
      assertClean(watched);
      await page.context().close();
    });
  }
}

test("works with the keyboard alone", { skip }, async () => {
  const { page, watched } = await open();
  await sendAll();
  await untilRows(page, SENT);
  const focused = () => page.evaluate("document.activeElement.id || document.activeElement.textContent");
  const tabTo = async (wanted: string) => {
    for (let i = 0; (await focused()) !== wanted; i++) {
      assert.ok(i < 40, `Tab reaches ${wanted}`);
      await page.keyboard.press("Tab");
    }
    const outline = await page.evaluate("getComputedStyle(document.activeElement).outlineStyle");
    assert.notEqual(outline, "none", "the focus is visible");
  };
  await tabTo("Skip to live decisions");
  await page.keyboard.press("Enter");
  await page.keyboard.press("Tab");
  assert.equal(await focused(), "f-verdict");
  await page.keyboard.type("failed");
  await untilRows(page, 1);
  await tabTo("pause");
  await page.keyboard.press("Space");
  await untilText(page, "#stream", "Paused");
  await tabTo(`hooks.example:${closedPort}`);
  await page.keyboard.press("Enter");
  await untilText(page, "#rows tr.more", "refused");
  await tabTo("target");
  await page.keyboard.type("https://x.competitor.example/");
  await tabTo("client");
  await page.keyboard.type("billing");
  await page.keyboard.press("Enter");
  await untilText(page, "#answer", "x.competitor.example is denied by rule competitors");
  assertClean(watched);
  await page.context().close();
});

// The picture of README.md: SCREENSHOTS=FOLDER MINUTES=14, copied to docs/images.
if (process.env.SCREENSHOTS !== undefined) {
  const minutes = Number(process.env.MINUTES ?? 0);
  test("takes a picture after some minutes of traffic", { skip, timeout: (minutes + 1) * 60_000 }, async () => {
    const { page } = await open({ viewport: { width: 1200, height: 1080 } });
    const kinds = [
      ...Array.from({ length: 9 }, () => () => send("hooks.example", "billing")),
      ...Array.from({ length: 4 }, () => () => send("api.customer.example", "trial")),
      ...Array.from({ length: 3 }, () => () => send("x.competitor.example", "billing", 443)),
      ...[() => send("intranet.example", "orders", 443), () => send("hooks.example", "orders", 22)],
      ...[() => send("api.customer.example", "orders", 443), () => send("unlisted.example", "orders", 443)],
    ];
    for (const end = Date.now() + minutes * 60_000; Date.now() < end; ) {
      const load = 1 + Math.sin(Date.now() / 130_000);
      if (Math.random() < load / 2) await kinds[Math.floor(Math.random() * kinds.length)]!();
      await new Promise((resolve) => setTimeout(resolve, 300));
    }
    for (const kind of [...kinds.slice(-6).reverse(), kinds[0]!]) await kind();
    await page.fill("#target", "https://intranet.example/orders");
    await page.fill("#client", "orders");
    await page.keyboard.press("Enter");
    await untilText(page, "#answer", "egress-denied");
    await page.waitForTimeout(2500);
    await page.evaluate("document.activeElement.blur()");
    await page.evaluate("scrollTo(0, 0)");
    await picture(page, "proxy-page", false);
    await page.context().close();
  });
}

test("shows text of clients as text", { skip }, async () => {
  const { page, watched } = await open();
  await exchange(proxy.port, "CONNECT <img/src=x/onerror=alert(1)>:443 HTTP/1.1\r\n\r\n");
  await untilRows(page, 1);
  assert.match((await column(page, "target"))[0]!, /^<img/);
  assert.equal(await page.locator("#rows img").count(), 0);
  assertClean(watched);
  await page.context().close();
});

test("reports that there are too many readers, and takes a free place", { skip }, async () => {
  await until(async () => JSON.parse((await proxy.admin("/summary")).text).readers === 0, "no reader");
  const readers = await Promise.all([1, 2, 3, 4].map(() => readEvents(proxy.adminPort, "/decisions")));
  const { page } = await openPage(browser, origin);
  await page.goto(`${origin}/`);
  await untilText(page, "#stream", "No live view");
  for (const reader of readers) reader.close();
  await untilText(page, "#stream", "Live");
  await page.context().close();
});

test("reports a rejected policy file, and a proxy that has ended", { skip }, async () => {
  const { page } = await open();
  writeFileSync(proxy.policyFile, "{}");
  proxy.signal("SIGHUP");
  await untilText(page, "#problem", "The last reload failed.");
  assert.match(await text(page, "#problem"), /The policy before it stays in force\.$/);
  await proxy.stop();
  await untilText(page, "#lost", "The proxy has not answered since");
  assert.equal(await text(page, "#state"), "Unknown");
  await page.context().close();
});
