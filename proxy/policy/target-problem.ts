import { parseAddress } from "./cidr.ts";
import { hostProblem } from "./host.ts";

/** Limit in characters of a rejected target in a record. */
const MAX_SHOWN = 300;
/** Limit in characters of a host in a reason, so that the cause behind it fits into a reason phrase. */
const MAX_HOST = 80;

const SCHEME = /^[a-z][a-z0-9+.-]*:\/\//i;
const FORM = "send an absolute http URI (http://HOST/PATH), or CONNECT HOST:PORT";

/** A URI or authority in parts: `authority` ends before the first `/`, `?`, `#` or backslash. */
function split(text: string): { scheme: string; authority: string; tail: string } {
  const scheme = SCHEME.exec(text)?.[0] ?? "";
  const rest = text.slice(scheme.length);
  const end = rest.search(/[/?#\\]/);
  return end === -1
    ? { scheme, authority: rest, tail: "" }
    : { scheme, authority: rest.slice(0, end), tail: rest.slice(end) };
}

/** Bytes (latin1) as visible ASCII; others are `%XX`. */
const escaped = (text: string): string =>
  text.replace(/[^!-~]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase().padStart(2, "0")}`);

/** Whether an authority is an IPv6 address without brackets, with or without a port. */
function isBareIPv6(authority: string): boolean {
  const looksSo = /^[0-9a-f:.]+(?:%.*)?$/i.test(authority);
  return looksSo && (authority.includes("::") || authority.split(":").length > 7);
}

/** Host and port of an authority; the port is undefined if there is none. */
function hostAndPort(authority: string): [host: string, port: string | undefined] {
  const colon = authority.indexOf(":", authority.indexOf("]") + 1);
  return colon === -1 ? [authority, undefined] : [authority.slice(0, colon), authority.slice(colon + 1)];
}

/** Hides what may be a part of a password, also of one that is cut or has a `/`. */
function withoutSecrets(authority: string, tail: string): string {
  const shown = authority.slice(authority.lastIndexOf("@") + 1);
  if (isBareIPv6(shown)) return shown;
  const [host, port] = hostAndPort(shown);
  if (port === undefined || (/^\d*$/.test(port) && !tail.includes("@"))) return shown;
  return `${host}:***`;
}

/**
 * A rejected request target (latin1) for the record: as sent, without user info, path and query. Visible ASCII, other
 * bytes are `%XX`; cut to 300 characters.
 */
export function shownTarget(text: string): string {
  if (text.startsWith("/")) return "/";
  const { scheme, authority, tail } = split(text);
  const shown = escaped(`${scheme}${withoutSecrets(authority, tail)}`.slice(0, MAX_SHOWN + 1));
  return shown.length > MAX_SHOWN ? `${shown.slice(0, MAX_SHOWN)}...` : shown;
}

/** Why a request target (latin1) is not visible ASCII, which no valid target is; null: it is. */
export function characterProblem(target: string): string | null {
  const at = target.search(/[^!-~]/);
  if (at === -1) return null;
  const code = target.charCodeAt(at);
  const hex = code.toString(16).toUpperCase().padStart(2, "0");
  if (code < 0x80) return `the target has the control character 0x${hex}; percent-encode it (%${hex})`;
  const { scheme, authority } = split(target);
  return at < scheme.length + authority.length
    ? `the host has the byte 0x${hex}, which is not ASCII; write the name in punycode (xn--...)`
    : `the path or query has the byte 0x${hex}, which is not ASCII; percent-encode it (%${hex})`;
}

function portProblem(port: string): string | null {
  if (port === "") return "the port is empty";
  if (!/^\d+$/.test(port)) return "the port is not a number";
  if (Number(port) < 1 || Number(port) > 65_535) return "the port is not from 1 to 65535";
  return port.startsWith("0") ? "the port has a leading zero" : null;
}

function bracketsProblem(host: string): string | null {
  if (!host.includes("]")) return "the target has [ without ]";
  if (!host.endsWith("]")) return "the target has text between ] and the port";
  const address = host.slice(1, -1);
  if (address.includes("%")) return "an IPv6 zone (%...) is not supported";
  if (address.includes(":") && parseAddress(address) !== null) return null;
  return "brackets are for an IPv6 address, and the text in them is none";
}

function nameProblem(host: string): string | null {
  if (host === "") return "the target has no host";
  if (parseAddress(host) !== null) return null;
  const problem = hostProblem(host);
  const shown = host.length > MAX_HOST ? `${host.slice(0, MAX_HOST)}...` : host;
  return problem === null ? null : `the host ${shown} ${problem}`;
}

/** `needsPort`: there is no default port (CONNECT). */
function authorityProblem(authority: string, needsPort: boolean): string | null {
  if (authority.includes("@")) return "the target has user info (an @); send it in a header field";
  if (isBareIPv6(authority)) return `an IPv6 address needs brackets: [ADDRESS]${needsPort ? ":PORT" : ""}`;
  const [host, port] = hostAndPort(authority);
  const problem = host.startsWith("[") ? bracketsProblem(host) : nameProblem(host);
  if (problem !== null) return problem;
  if (port !== undefined) return portProblem(port);
  return needsPort ? "the CONNECT target has no port; write HOST:PORT" : null;
}

/** Why `parseAuthority` rejects the target of a CONNECT: one sentence, without secrets. */
export function authorityTargetProblem(target: string): string {
  if (SCHEME.test(target)) return "CONNECT takes HOST:PORT, not a URI";
  return authorityProblem(target, true) ?? "the CONNECT target is not HOST:PORT";
}

/** Why `parseAbsolute` rejects the target of another method: one sentence, without secrets. */
export function absoluteTargetProblem(target: string): string {
  const { scheme, authority, tail } = split(target);
  switch (scheme.toLowerCase()) {
    case "http://":
      break;
    case "https://":
      return "https goes through CONNECT";
    case "":
      return `this is a forward proxy: the target is not an absolute URI; ${FORM}`;
    default:
      return `the scheme of the target is not http; ${FORM}`;
  }
  if (tail.includes("\\")) return "the target has a backslash";
  if (tail.includes("#")) return "the target has a fragment (#...), which belongs to the client only";
  return authorityProblem(authority, false) ?? `the target is not an absolute http URI; ${FORM}`;
}
