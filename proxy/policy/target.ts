import { formatAddress, parseAddress } from "./cidr.ts";
import { canonicalHost } from "./host.ts";

/** The canonical target of a request: matching, vetting, resolving, dialling and logging all use this value. */
export interface Target {
  /** Lower-case name without trailing dot, or an IP address in canonical text without brackets (IPv4-mapped: as IPv4). */
  readonly host: string;
  readonly port: number;
  /** Whether `host` is an IP address. */
  readonly ip: boolean;
}

/** A parsed absolute-form request target. `path` is origin-form: it starts with `/`. */
export interface AbsoluteTarget {
  readonly target: Target;
  readonly path: string;
  /** The authority for the Host field (RFC 9112 §3.2.2). */
  readonly authority: string;
}

const PORT = /^[1-9]\d{0,4}$/;

function parseHost(text: string): { host: string; ip: boolean } | null {
  if (text.startsWith("[")) {
    if (!text.endsWith("]") || !text.includes(":")) return null;
    const address = parseAddress(text.slice(1, -1));
    return address === null ? null : { host: formatAddress(address), ip: true };
  }
  if (text.includes(":")) return null;
  const address = parseAddress(text);
  if (address !== null) return { host: formatAddress(address), ip: true };
  const host = canonicalHost(text);
  return host === null ? null : { host, ip: false };
}

/**
 * `host:port` of a CONNECT (RFC 9110 §9.3.6). Strict: no default port, no user info, no zone, ports 1–65535 without
 * leading zeros. Null for anything else.
 */
export function parseAuthority(text: string): Target | null {
  const colon = text.lastIndexOf(":");
  if (colon <= 0) return null;
  const digits = text.slice(colon + 1);
  const port = Number(digits);
  if (!PORT.test(digits) || port > 65535) return null;
  const host = parseHost(text.slice(0, colon));
  return host === null ? null : { ...host, port };
}

/**
 * Parses `http://host[:port][/path][?query]` (RFC 9112 §3.2.2). The scheme is http only, since https would require TLS
 * termination. User info, fragments, backslashes and empty ports are refused. Null for anything else.
 */
export function parseAbsolute(uri: string): AbsoluteTarget | null {
  if (!/^http:\/\//i.test(uri) || /[#\\]/.test(uri)) return null;
  const rest = uri.slice(7);
  const end = rest.search(/[/?]/);
  const authority = end === -1 ? rest : rest.slice(0, end);
  const target = /(^\[[^\]]*\]|^[^:]*)$/.test(authority)
    ? parseAuthority(`${authority}:80`)
    : parseAuthority(authority);
  if (target === null) return null;
  const tail = end === -1 ? "" : rest.slice(end);
  const shown = target.host.includes(":") ? `[${target.host}]` : target.host;
  return {
    target,
    path: tail.startsWith("/") ? tail : `/${tail}`,
    authority: target.port === 80 ? shown : `${shown}:${target.port}`,
  };
}

/** `host:port`, with brackets around IPv6: the form of logs and answers. */
export function formatTarget(target: Target): string {
  return target.host.includes(":") ? `[${target.host}]:${target.port}` : `${target.host}:${target.port}`;
}
