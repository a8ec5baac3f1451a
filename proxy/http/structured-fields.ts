/** Items of structured fields (RFC 9651 §3.3) as sources of regular expressions; none of them is ambiguous. */
const STRING = String.raw`"(?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\])*"`;
const TOKEN = String.raw`[A-Za-z*][!#$%&'*+\-.^_\x60|~0-9A-Za-z:/]*`;
const NUMBER_OR_DATE = String.raw`@?-?\d+(?:\.\d+)?`;
const BYTES = ":[A-Za-z0-9+/=]*:";
const BOOLEAN = String.raw`\?[01]`;
const DISPLAY_STRING = String.raw`%"[\x20-\x21\x23-\x7e]*"`;
const VALUE = [STRING, TOKEN, NUMBER_OR_DATE, BYTES, BOOLEAN, DISPLAY_STRING].join("|");
/** One intermediary in `Proxy-Status` (RFC 9209 §2): a string or token, with parameters. Sticky. */
const MEMBER = new RegExp(String.raw`(${STRING}|${TOKEN})(?:;[ ]*[a-z*][a-z0-9_\-.*]*(?:=(?:${VALUE}))?)*`, "y");
/** Separator of two members. Sticky. */
const COMMA = /[ \t]*,[ \t]*/y;

/** Members of one field: real chains of proxies are shorter, and reading them costs time. */
const MAX_MEMBERS = 64;

/** The match at an index of a text; null when there is none. */
function matchAt(pattern: RegExp, text: string, at: number): RegExpExecArray | null {
  pattern.lastIndex = at;
  return pattern.exec(text);
}

/** The text of a string or token, in lower case. Escapes stay: no name of a proxy has a quote or a backslash. */
const nameOf = (item: string): string => (item.startsWith('"') ? item.slice(1, -1).trim() : item).toLowerCase();

/**
 * A `Proxy-Status` value without the members of this name (in any case). The others keep their text. Empty when no
 * member is left, when the value is not a valid list (readers must then ignore it, RFC 9651 §4.2), or when it is very
 * long.
 */
export function withoutMembers(list: string, name: string): string {
  const members: string[] = [];
  for (let at = 0, count = 0; count < MAX_MEMBERS; count++) {
    const member = matchAt(MEMBER, list, at);
    if (member === null) return "";
    if (nameOf(member[1]!) !== name) members.push(member[0]);
    at += member[0].length;
    if (at === list.length) return members.join(", ");
    const comma = matchAt(COMMA, list, at);
    if (comma === null) return "";
    at += comma[0].length;
  }
  return "";
}
