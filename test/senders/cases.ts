/** The cases that every client plays, and the columns of the tables. */

const RECEIVER6 = "2600:1::10";
export const ADDRESSES = { receiver: "11.0.0.10", receiver6: RECEIVER6 };
export const NAMES = { receiver: "hooks.example", denied: "x.competitor.example" };

/** A webhook. */
const SMALL = 16;
/** The proxy reads up to 4 MiB of a refused request (`LINGER_BYTES`). The kernel holds some more. */
const MEDIUM = 2 * 1024 * 1024;
const LARGE = 16 * 1024 * 1024;

export interface Case {
  id: string;
  url: string;
  bytes: number;
  /** Table and column that show it. */
  table: "delivered" | "refused";
  column: string;
  password: "right" | "wrong";
  /** Status of the receiver's answer. */
  wanted: "200" | "413" | null;
  /** Clients whose result is a matter of chance. */
  varies?: readonly string[];
}

const both = (
  what: string,
  host: string,
  path: string,
  { table, password = "right" }: Pick<Case, "table"> & Partial<Pick<Case, "password">>,
): Case[] =>
  ["http", "https"].map((scheme) => ({
    id: `${what.replaceAll(" ", "-")}-${scheme}`,
    ...{ url: `${scheme}://${host}${path}`, bytes: SMALL, table, password },
    wanted: table === "delivered" ? "200" : null,
    column: `${what}, ${scheme}`,
  }));

const upload = (size: string, bytes: number): Case => ({
  id: `denied-${size.replace(" ", "")}`,
  ...{ url: `http://${NAMES.denied}/hook`, bytes, table: "refused", password: "right", wanted: null },
  column: `denied, http, body of ${size}`,
});

/** The receiver answers before it has read the body, and closes. */
const tooLarge: Case = {
  id: "too-large-http",
  ...{ url: `http://${NAMES.receiver}/refused`, bytes: LARGE, table: "delivered", password: "right", wanted: "413" },
  // It may notice the reset before the answer, without a proxy too.
  varies: ["Node fetch"],
  column: "413 of the receiver, http, body of 16 MiB",
};

export const CASES: readonly Case[] = [
  ...both("name", NAMES.receiver, "/hook", { table: "delivered" }),
  ...both("IPv6 literal", `[${RECEIVER6}]`, "/hook", { table: "delivered" }),
  ...both("slow receiver", NAMES.receiver, "/slow", { table: "delivered" }),
  tooLarge,
  ...both("denied", NAMES.denied, "/hook", { table: "refused" }),
  upload("2 MiB", MEDIUM),
  upload("16 MiB", LARGE),
  ...both("wrong password", NAMES.receiver, "/hook", { table: "refused", password: "wrong" }),
];

/** The file that a program reads: its cases, one in a line. */
export const planOf = (password: Case["password"]): string =>
  CASES.filter((one) => one.password === password)
    .map(({ id, url, bytes }) => `${id} ${url} ${bytes}\n`)
    .join("");
