import assert from "node:assert/strict";
import { test } from "node:test";
import { Minutes, type Totals } from "../../proxy/outcome/minutes.ts";

/** Counts by minute, from totals that only grow. */

const AT = Date.parse("2030-01-01T10:00:00Z");
const MINUTE = 60_000;

function counted() {
  const totals = { allowed: 0, denied: 0, codes: {} as Record<string, number>, bytesUp: 0, bytesDown: 0 };
  const minutes = new Minutes((): Totals => ({ ...totals, codes: { ...totals.codes } }), AT);
  const deny = (code: string, times = 1) => {
    totals.denied += times;
    totals.codes[code] = (totals.codes[code] ?? 0) + times;
  };
  return { totals, minutes, deny };
}

test("a minute has what was counted in it", () => {
  const { totals, minutes, deny } = counted();
  totals.allowed = 2;
  deny("port");
  minutes.mark(AT + MINUTE);
  deny("port", 3);
  deny("address");
  minutes.mark(AT + 2 * MINUTE);
  deny("address");
  assert.deepEqual(minutes.list(), [
    { at: "2030-01-01T10:00:00.000Z", allowed: 2, denied: 1, codes: { port: 1 } },
    { at: "2030-01-01T10:01:00.000Z", allowed: 0, denied: 4, codes: { port: 3, address: 1 } },
    { at: "2030-01-01T10:02:00.000Z", allowed: 0, denied: 1, codes: { address: 1 } },
  ]);
});

test("keeps the last 15 minutes", () => {
  const { minutes, deny } = counted();
  for (let i = 1; i <= 40; i++) {
    deny("port");
    minutes.mark(AT + i * MINUTE);
  }
  const list = minutes.list();
  assert.equal(list.length, 15);
  assert.deepEqual([list[0]!.at, list[14]!.at], ["2030-01-01T10:26:00.000Z", "2030-01-01T10:40:00.000Z"]);
  assert.deepEqual(
    list.map(({ denied }) => denied),
    [...Array<number>(14).fill(1), 0],
  );
});
