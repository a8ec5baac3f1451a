/** Text for terminals. Names, messages and records of a cluster are untrusted: they must not move the cursor of a reader. */

/** Every character that is not printable ASCII. */
const UNSAFE = /[^ -~]/gu;
/** The same in JSON, without the newlines of its layout. */
const UNSAFE_JSON = /[^ -~\n]/g;

const escaped = (c: string): string => {
  const code = c.codePointAt(0)!;
  return code > 0xffff ? `\\u{${code.toString(16)}}` : `\\u${code.toString(16).padStart(4, "0")}`;
};

/** One line of printable ASCII. `max`: characters of the text that are kept. */
export function safe(text: string, max = 2000): string {
  const cut = text.length > max ? `${text.slice(0, max)}...` : text;
  return cut.replace(UNSAFE, escaped);
}

/** Indented JSON of printable ASCII. */
export function safeJson(value: unknown): string {
  return JSON.stringify(value, null, 2).replace(UNSAFE_JSON, (c) => {
    return `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`;
  });
}

/** Style of a part of a text on a terminal. */
export type Colour = "red" | "green" | "yellow" | "bold";
/** SGR parameters of ECMA-48. */
const CODES: Record<Colour, number> = { red: 31, green: 32, yellow: 33, bold: 1 };

/** Adds colours to text, or leaves it as it is. */
export type Paint = (text: string, colour: Colour | undefined) => string;

/** Leaves text as it is. */
export const plain: Paint = (text) => text;
const coloured: Paint = (text, colour) => (colour === undefined ? text : `\x1b[${CODES[colour]}m${text}\x1b[0m`);

/** Colours only on a terminal, and not with NO_COLOR (https://no-color.org) or on a terminal without them. */
export function paintFor(isTerminal: boolean, env: NodeJS.ProcessEnv): Paint {
  return isTerminal && !env.NO_COLOR && env.TERM !== "dumb" ? coloured : plain;
}

/** One cell of a table: text that is escaped here, with its colour. */
export type Cell = string | { text: string; colour: Colour | undefined };

const textOf = (cell: Cell): string => safe(typeof cell === "string" ? cell : cell.text) || "-";

/** Lines of a table with aligned columns. The first row is the header. */
export function table(rows: readonly (readonly Cell[])[], paint: Paint, indent = ""): string[] {
  const widths = (rows[0] ?? []).map((_, i) =>
    rows.reduce((max, row) => Math.max(max, textOf(row[i] ?? "").length), 0),
  );
  return rows.map((row) => {
    const cells = row.map((cell, i) => {
      const text = textOf(cell);
      const gap = i === row.length - 1 ? "" : " ".repeat(widths[i]! - text.length + 3);
      return paint(text, typeof cell === "string" ? undefined : cell.colour) + gap;
    });
    return indent + cells.join("");
  });
}

const UNITS: readonly [seconds: number, unit: string][] = [
  [86_400, "d"],
  [3600, "h"],
  [60, "m"],
];

/** Time since a moment (RFC 3339) as kubectl writes it, such as `5m`; `-` if it is unknown. */
export function age(time: string | null | undefined, now: number): string {
  const then = Date.parse(time ?? "");
  if (Number.isNaN(then)) return "-";
  const seconds = Math.max(0, Math.floor((now - then) / 1000));
  const [unitSeconds, unit] = UNITS.find(([size]) => seconds >= size * 2) ?? [1, "s"];
  return `${Math.floor(seconds / unitSeconds)}${unit}`;
}

/** The start of a hash, which differs between two documents: `sha256:0123456789ab`. */
export const shortHash = (hash: string | null | undefined): string =>
  hash === null || hash === undefined ? "-" : hash.slice(0, "sha256:".length + 12);
