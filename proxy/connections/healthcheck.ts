import type { Head } from "../http/head.ts";

/**
 * Whether a request is a health check of a load balancer: GET or HEAD of the path itself (origin-form). A request that
 * names a host is never one, so that it cannot be answered in the name of its target.
 */
export function isHealthcheck({ method, target }: Head, path: string | undefined): boolean {
  return target === path && (method === "GET" || method === "HEAD");
}

/** The answer to a health check: 200, or 503 with the reason (ASCII). The connection is closed after it. */
export function healthAnswer({ method }: Head, unready: string | null): string {
  const body = `${unready ?? "ok"}\n`;
  const lines = [
    `HTTP/1.1 ${unready === null ? "200 OK" : "503 Service Unavailable"}`,
    "Content-Type: text/plain; charset=utf-8",
    `Content-Length: ${body.length}`,
    "Connection: close",
  ];
  return `${lines.join("\r\n")}\r\n\r\n${method === "HEAD" ? "" : body}`;
}
