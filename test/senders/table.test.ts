import assert from "node:assert/strict";
import { test } from "node:test";
import { CASES } from "./cases.ts";
import { cellOf, linesOf, type Row, readLines, readTables, tablesOf, withoutVersion } from "./table.ts";

const REASON = "egress-denied: x is denied by rule a; policy test/test";

/** Lines of a client that prints these observations for every case. */
function rowOf(client: string, seen: Record<string, string>): Row {
  const rows = new Map<string, Row>();
  const lines = CASES.flatMap(({ id }) =>
    Object.entries(seen).map(([kind, text]) => `${client}\t${id}\t${kind}\t${text}`),
  );
  readLines([`${client}\t-\tversion\t1.2`, ...lines, ""].join("\n"), rows);
  return rows.get(client)!;
}

test("a cell shows the status, the error, and where the reason is", () => {
  assert.equal(cellOf({ status: "200", phrase: "OK", body: "got POST /" }), "200");
  assert.equal(cellOf({ status: "403", phrase: "", field: REASON, body: "" }), "403, reason");
  assert.equal(cellOf({ status: "403", body: "Forbidden" }), "403, no reason");
  assert.equal(cellOf({ error: `OSError('Tunnel: 403 ${REASON}')` }), "error, reason");
  assert.equal(cellOf({ error: "response 403", field: REASON }), "error, only the status; reason in the fields");
  assert.equal(cellOf({ error: "reset after 1403 ms" }), "error, no reason");
  assert.equal(cellOf(undefined), "no result");
});

test("equal errors share a line, without names, ports and reasons", () => {
  const { errors } = linesOf(
    rowOf("a", { error: `Post "https://x.competitor.example/hook" via http://127.0.0.1:4711: ${REASON}` }),
  );
  assert.equal(errors.length, 1);
  assert.match(errors[0]!, /`Post "https:\/\/HOST\/hook" via http:\/\/PROXY: REASON` \|$/);
});

test("tables can be read back, and versions left out", () => {
  const lines = [rowOf("a", { status: "200" }), rowOf("b", { error: "one | two" })].map(linesOf);
  const read = readTables(tablesOf(lines));
  assert.deepEqual([...read.keys()], ["a", "b"]);
  assert.deepEqual([...read.values()], lines);
  const other = linesOf({ ...rowOf("a", { status: "200" }), version: "3" });
  assert.notDeepEqual(other, read.get("a"));
  assert.deepEqual(withoutVersion(other), withoutVersion(read.get("a")!));
});
