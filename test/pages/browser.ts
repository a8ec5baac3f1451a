import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { type Browser, type BrowserContextOptions, chromium, type Page } from "playwright-core";
import { programMissing } from "../harness/packages.ts";

/** Real Chromium for tests of pages. It sends nothing but to loopback. */

/** The reason to skip tests with a browser; null: there is one. */
export const browserMissing = (): string | null => programMissing("chromium");

/** Switches that keep Chromium from everything it does by itself, and from all names but `localhost`. */
const SWITCHES = [
  "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
  "--disable-background-networking",
  "--disable-client-side-phishing-detection",
  "--disable-component-update",
  "--disable-default-apps",
  "--disable-domain-reliability",
  "--disable-sync",
  "--metrics-recording-only",
  "--no-default-browser-check",
  "--no-first-run",
  "--no-pings",
  "--no-proxy-server",
  // No GPU, and /dev/shm of a container is small.
  "--disable-gpu",
  "--disable-dev-shm-usage",
];

/** Starts Chromium from `PATH`. Its sandbox does not work for root. */
export function startBrowser(): Promise<Browser> {
  const folders = (process.env.PATH ?? "").split(":");
  const executablePath = folders.map((folder) => join(folder, "chromium")).find((path) => existsSync(path))!;
  return chromium.launch({ executablePath, args: SWITCHES, chromiumSandbox: false });
}

/** Problems of a page. */
export interface Watched {
  /** Errors and warnings on the console, and exceptions. */
  errors: string[];
  /** Requests to another origin than that of the page. */
  foreign: string[];
}

/** Records the problems of a page from now on. `origin`: that of the page under test. */
export function watch(page: Page, origin: string): Watched {
  const watched: Watched = { errors: [], foreign: [] };
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) watched.errors.push(message.text());
  });
  page.on("pageerror", (error) => watched.errors.push(String(error)));
  page.context().on("request", (request) => {
    const url = request.url();
    if (!url.startsWith(`${origin}/`) && !url.startsWith("data:")) watched.foreign.push(url);
  });
  return watched;
}

/** A new page in its own context, with its problems ({@link watch}). Close its context at the end. */
export async function openPage(
  browser: Browser,
  origin: string,
  options: BrowserContextOptions = {},
): Promise<{ page: Page; watched: Watched }> {
  const context = await browser.newContext({ locale: "en-GB", timezoneId: "UTC", ...options });
  const page = await context.newPage();
  return { page, watched: watch(page, origin) };
}

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

interface Violation {
  id: string;
  help: string;
  nodes: { html: string; failureSummary?: string }[];
}

/** Problems of accessibility that axe-core finds, one line each: rule, help and the first elements. */
export async function axe(page: Page): Promise<string[]> {
  // Evaluated through the debugger: the policy of the page refuses further scripts.
  await page.evaluate(AXE);
  const violations = (await page.evaluate("axe.run().then(({ violations }) => violations)")) as Violation[];
  return violations.map(({ id, help, nodes }) => {
    const shown = nodes.slice(0, 3).map(({ html, failureSummary = "" }) => `${html} ${failureSummary}`);
    return `${id}: ${help}: ${shown.join(" | ")}`;
  });
}

/** Whether the page is wider than the window. */
export const scrollsSideways = (page: Page): Promise<boolean> =>
  page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth") as Promise<boolean>;

/** Takes a picture of the whole page if the variable `SCREENSHOTS` names a folder. */
export async function picture(page: Page, name: string, fullPage = true): Promise<void> {
  const folder = process.env.SCREENSHOTS;
  if (folder === undefined) return;
  mkdirSync(folder, { recursive: true });
  await page.screenshot({ path: join(folder, `${name}.png`), fullPage });
}
