import type { IncomingMessage } from "node:http";
import { parseAddress } from "../policy/cidr.ts";
import { isLoopbackAddress } from "../policy/special.ts";

/** Whether a text is a loopback address, also in the form of IPv4 in IPv6. */
export function isLoopback(text: string): boolean {
  const address = parseAddress(text.replace(/^::ffff:(?=\d+\.)/, ""));
  return address !== null && isLoopbackAddress(address);
}

/** Whether a Host value is `localhost` or a loopback address, with any port. */
function isLocalHost(host: string): boolean {
  const [, six, name = six ?? ""] = /^(?:\[([0-9a-f:.]+)\]|([^:[\]]+))(?::\d{1,5})?$/i.exec(host) ?? [];
  return name.toLowerCase() === "localhost" || isLoopback(name);
}

/**
 * Why a request for people on this machine is refused; null: it is allowed. `host`: its Host value. Only callers on this
 * machine (or behind a port-forward) may send it. A browser on this machine also sends requests of foreign pages: those
 * have another Origin, or, by DNS rebinding, another Host.
 */
export function refusalOf(request: IncomingMessage, host: string): string | null {
  if (!isLoopback(request.socket.remoteAddress ?? "")) return "loopback only";
  if (!isLocalHost(host)) return "Host must be localhost or a loopback address";
  const { origin, "sec-fetch-site": site = "none" } = request.headers;
  const own = origin === undefined || URL.parse(origin)?.host === host.toLowerCase();
  return own && (site === "none" || site === "same-origin") ? null : "not for pages of other origins";
}
