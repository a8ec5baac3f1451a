import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { Browser } from "playwright-core";
import { publish } from "../../operator/reconcile/decision/published-ips.ts";
import { publishedPage } from "../../operator/reconcile/objects/published/page.ts";
import { A, at, B, C, NOW, pending, retiring, specOf } from "../operator/worlds.ts";
import { axe, browserMissing, openPage, scrollsSideways, startBrowser } from "./browser.ts";

/** The page of the published list (ips.html) in real Chromium. */

const skip = browserMissing() ?? false;
const V6 = "2001:db8:1234:5678:9abc:def0:1234:5678";
const DAY_MS = 24 * 3600 * 1000;

let browser: Browser;
let server: Server;
let origin: string;
before(async () => {
  if (skip) return;
  const first = publish(specOf("External", [A, B]), [], undefined, at(NOW));
  const second = publish(specOf("External", [A, B, V6, pending(C)]), [], first.json, at(NOW + DAY_MS));
  const third = publish(specOf("External", [A, retiring(B), V6, pending(C)]), [], second.json, at(NOW + 9 * DAY_MS));
  const page = publishedPage("webhooks", third.json);
  server = createServer((request, response) => {
    const found = request.url === "/ips.html";
    response.writeHead(found ? 200 : 404, { "content-type": "text/html" }).end(found ? page : "");
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  browser = await startBrowser();
});
after(async () => {
  await browser?.close();
  server?.close();
});

for (const colorScheme of ["light", "dark"] as const) {
  for (const width of [360, 1000]) {
    test(`the list is accessible, ${colorScheme}, ${width} px wide`, { skip }, async () => {
      const { page, watched } = await openPage(browser, origin, { colorScheme, viewport: { width, height: 900 } });
      await page.goto(`${origin}/ips.html`);
      assert.equal(await page.getByRole("row", { name: `${C} Pending Add it` }).count(), 1);
      assert.equal(await page.getByRole("row", { name: `${B} Retiring Webhooks` }).count(), 1);
      assert.equal(await page.getByRole("link", { name: "ips.json" }).getAttribute("href"), "ips.json");
      assert.deepEqual(await axe(page), []);
      assert.equal(await scrollsSideways(page), false);
      const pictures = process.env.SCREENSHOTS;
      if (pictures !== undefined) {
        mkdirSync(pictures, { recursive: true });
        await page.screenshot({ path: join(pictures, `ip-list-${colorScheme}-${width}.png`), fullPage: true });
      }
      assert.deepEqual(watched, { errors: [], foreign: [] });
      await page.context().close();
    });
  }
}
