import { createHash } from "node:crypto";

/** An HTML page that needs no other file, with the headers of its answer. */
export interface Page {
  body: Buffer;
  headers: Readonly<Record<string, string>>;
}

/** The source expressions of the inline elements with this name (CSP Level 3 §2.3.1). */
function hashesOf(html: string, name: "script" | "style"): string {
  const texts = [...html.matchAll(new RegExp(`<${name}>([^]*?)</${name}>`, "g"))].map(([, text]) => text!);
  return texts.map((text) => `'sha256-${createHash("sha256").update(text).digest("base64")}'`).join(" ");
}

/**
 * A page from its HTML. Its inline `<style>` and `<script>` run because the policy has their hashes, so that no text that
 * gets into the page can run or load anything. Scripts may send requests to the origin of the page only.
 */
export function makePage(html: string): Page {
  const policy = [
    "default-src 'none'",
    `script-src ${hashesOf(html, "script")}`,
    `style-src ${hashesOf(html, "style")}`,
    "connect-src 'self'",
    "img-src data:",
    "frame-ancestors 'none'",
    "base-uri 'none'",
    "form-action 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
  ];
  const body = Buffer.from(html);
  const headers = {
    "content-type": "text/html; charset=utf-8",
    "content-length": `${body.length}`,
    "content-security-policy": policy.join("; "),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
  };
  return { body, headers };
}
