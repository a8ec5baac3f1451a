import { CASES, type Case } from "./cases.ts";

/** Tables of what the clients saw, in Markdown. Pure. */

/** The observations of one client in one case; texts are one line. */
export interface Seen {
  status?: string;
  phrase?: string;
  /** `X-Outrider-Error`. */
  field?: string;
  body?: string;
  /** The text of the error that the client throws. */
  error?: string;
}

/** The observations of one client, by the ids of cases. */
export interface Row {
  client: string;
  version: string;
  seen: ReadonlyMap<string, Seen>;
}

/** The reason of a refusal in a text. In an error it ends at the quotation mark around it. */
const REASON = /egress-[a-z-]+: [^"'>]*/;
const STATUS = /\b(400|403|407)\b/;

/** Reads the lines of a program: client, case, kind and text, separated by tabs. */
export function readLines(output: string, rows: Map<string, Row>): void {
  for (const line of output.split("\n").filter((text) => text !== "")) {
    const [client, id, kind, text = ""] = line.split("\t") as [string, string, string, string?];
    const row = rows.get(client) ?? { client, version: "", seen: new Map<string, Seen>() };
    if (kind === "version") row.version = text;
    else (row.seen as Map<string, Seen>).set(id, { ...row.seen.get(id), [kind]: text });
    rows.set(client, row);
  }
}

/** The result of one case in a few words. */
export function cellOf(seen: Seen | undefined): string {
  if (seen === undefined) return "no result";
  const { status, error, phrase = "", field = "", body = "" } = seen;
  const hasReason = [phrase, field, body].some((text) => REASON.test(text));
  if (error === undefined) {
    if (status === "200" || status === "413") return status;
    return `${status}, ${hasReason ? "reason" : "no reason"}`;
  }
  const shown = REASON.test(error) ? "reason" : STATUS.test(error) ? "only the status" : "no reason";
  return `error, ${shown}${hasReason ? "; reason in the fields" : ""}`;
}

/** An error with placeholders for what differs between requests. */
const generalized = (error: string): string =>
  error
    .replace(REASON, "REASON")
    .replace(STATUS, "STATUS")
    .replace(/(https?):\/\/127\.0\.0\.1:\d+/, "$1://PROXY")
    .replace(/(https?):\/\/(hooks|x\.competitor)\.example/, "$1://HOST")
    .replace(/(hooks|x\.competitor)\.example/, "HOST");

const line = (cells: readonly string[]): string =>
  `| ${cells.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`;
const heading = (cells: readonly string[]): string[] => [line(cells), `|${"---|".repeat(cells.length)}`];

/** The lines of the tables that belong to one client. */
export interface ClientLines {
  delivered: string;
  refused: string;
  errors: string[];
}

const columnsOf = (table: Case["table"]) => CASES.filter((one) => one.table === table);

/** The lines of one client. */
export function linesOf({ client, version, seen }: Row): ClientLines {
  const cells = (table: Case["table"]) =>
    columnsOf(table).map(({ id, varies }) => (varies?.includes(client) ? "varies" : cellOf(seen.get(id))));
  const errors = new Map<string, string[]>();
  for (const { id, column, varies } of CASES) {
    const error = seen.get(id)?.error;
    if (error === undefined || varies?.includes(client)) continue;
    const text = generalized(error);
    errors.set(text, [...(errors.get(text) ?? []), column]);
  }
  return {
    delivered: line([client, version, ...cells("delivered")]),
    refused: line([client, ...cells("refused")]),
    errors: [...errors].map(([text, columns]) => line([client, columns.join("; "), `\`${text}\``])),
  };
}

/** The tables with the lines of all clients. */
export function tablesOf(clients: readonly ClientLines[]): string {
  return [
    "Delivered:",
    "",
    ...heading(["client", "version", ...columnsOf("delivered").map(({ column }) => column)]),
    ...clients.map(({ delivered }) => delivered),
    "",
    "Refused:",
    "",
    ...heading(["client", ...columnsOf("refused").map(({ column }) => column)]),
    ...clients.map(({ refused }) => refused),
    "",
    "Texts of the errors:",
    "",
    ...heading(["client", "cases", "text"]),
    ...clients.flatMap(({ errors }) => errors),
    "",
  ].join("\n");
}

/** Cells of a line. */
const cellsOf = (text: string): string[] => text.split(/(?<!\\)\|/).map((cell) => cell.trim());

/** Reads the lines of the clients in a page, in the order of {@link tablesOf}. */
export function readTables(text: string): Map<string, ClientLines> {
  const clients = new Map<string, ClientLines>();
  let table = 0;
  for (const row of text.split("\n")) {
    const client = cellsOf(row)[1];
    if (client === "client") table++;
    if (!row.startsWith("| ") || client === undefined || client === "client") continue;
    const lines = clients.get(client) ?? { delivered: "", refused: "", errors: [] };
    if (table === 1) lines.delivered = row;
    else if (table === 2) lines.refused = row;
    else lines.errors.push(row);
    clients.set(client, lines);
  }
  return clients;
}

/** The lines without the version of the client, which a machine may have in another one. */
export function withoutVersion({ delivered, ...lines }: ClientLines): ClientLines {
  const cells = cellsOf(delivered).slice(1, -1);
  return { delivered: line(cells.toSpliced(1, 1)), ...lines };
}
