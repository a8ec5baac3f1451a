import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import type { Browser, Page } from "playwright-core";
import { OPEN_LOOPBACK, type ProxyHandle, startProxy } from "../harness/proxy.ts";
import { exchange, listen } from "../harness/raw.ts";
import { axe, browserMissing, openPage, picture, scrollsSideways, startBrowser, type Watched } from "./browser.ts";

/** The page of the proxy in real Chromium, over a real proxy with real requests. */

const HOSTS = `127.0.0.1 hooks.example api.customer.example echo.example echo.other.example slow.example
10.0.0.5 intranet.example
`;
const policy = (port: number) => ({
  deny: [{ name: "competitors", hosts: ["*.competitor.example"] }],
  allow: [{ name: "receivers", hosts: ["hooks.example", "*.customer.example", "intranet.example", "*.example"] }],
  clients: [
    { name: "billing" },
    { name: "orders", deny: [{ name: "no-customers", hosts: ["*.customer.example"] }] },
    { name: "trial", mode: "Report", deny: [{ name: "trial-only", hosts: ["api.customer.example"] }] },
    { name: "default" },
  ],
  verification: { echoURLs: [`http://echo.example:${port}/ip`, `http://echo.other.example:${port}/ip`] },
});

const missing = browserMissing();
let far: Awaited<ReturnType<typeof listen>>;
let proxy: ProxyHandle;
let browser: Browser;
let origin: string;

before(async () => {
  if (missing !== null) return;
  far = await listen((socket) => {
    socket.on("data", (head) => {
      const body = String(head).startsWith("GET /ip") ? "127.0.0.1" : "ok";
      socket.end(`HTTP/1.1 200 OK\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
    });
  });
  proxy = await startProxy({
    policy: policy(far.port),
    args: [...OPEN_LOOPBACK, "--source-address", "127.0.0.1"],
    hosts: HOSTS,
    env: { PROXY_PASSWORD: "s3cret" },
  });
  await proxy.untilStatus(({ verification }) => verification.every(({ verified }) => verified));
  origin = `http://localhost:${proxy.adminPort}`;
  browser = await startBrowser();
});
after(async () => {
  await browser?.close();
  await proxy?.stop();
  await far?.close();
});

const skip = missing ?? false;

/** Sends a request for a host as a client; returns the status line. */
async function send(host: string, client: string, port = far.port): Promise<string> {
  const credentials = Buffer.from(`${client}:s3cret`).toString("base64");
  const wire = `GET http://${host}:${port}/ HTTP/1.1\r\nHost: ${host}:${port}\r\nProxy-Authorization: Basic ${credentials}\r\nConnection: close\r\n\r\n`;
  return (await exchange(proxy.port, wire)).split("\r\n")[0]!;
}

const assertClean = ({ errors, foreign }: Watched) =>
  assert.deepEqual({ errors, foreign }, { errors: [], foreign: [] });
/** Texts of the shown decisions, the newest first. */
const rows = (page: Page) => page.locator("#rows tr.row").allInnerTexts();
const untilRows = (page: Page, count: number) =>
  page.waitForFunction((wanted) => document.querySelectorAll("#rows tr.row").length === wanted, count);

async function open(options: Parameters<typeof openPage>[2] = {}) {
  const opened = await openPage(browser, origin, options);
  await opened.page.goto(`${origin}/`);
  await opened.page.getByText("Live", { exact: true }).waitFor();
  return opened;
}

test("debug", { skip }, async () => {
  const { page, watched } = await open({ viewport: { width: 1280, height: 900 } });
  console.log(await send("hooks.example", "billing"));
  console.log(await send("x.competitor.example", "billing", 443));
  console.log(await send("api.customer.example", "orders"));
  console.log(await send("api.customer.example", "trial"));
  console.log(await send("intranet.example", "billing"));
  console.log(await send("hooks.example", "billing", 22));
  await page.fill("#target", "https://intranet.example/");
  await page.click("text=Explain >> nth=-1");
  await page.waitForTimeout(3000);
  await picture(page, "wide-light");
  console.log(await axe(page), watched, await rows(page), (await proxy.admin("/status")).text);
});
