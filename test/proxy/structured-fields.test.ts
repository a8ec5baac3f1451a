import assert from "node:assert/strict";
import { test } from "node:test";
import { withoutMembers } from "../../proxy/http/structured-fields.ts";

/** `Proxy-Status` values (RFC 9209 §2), as structured fields (RFC 9651). */

test("removes the members of a name, in any case and form", () => {
  const rows: [string, string][] = [
    ["outrider", ""],
    ["outrider;error=x, a", "a"],
    ["a ,\toutrider", "a"],
    ['"outrider"', ""],
    ['a, " OutRider "', "a"],
    ["OutRIDER; a=1; b, c", "c"],
    ["a,outrider,b , outrider,c", "a, b, c"],
  ];
  for (const [list, expected] of rows) assert.equal(withoutMembers(list, "outrider"), expected, list);
});

test("keeps the text of the other members", () => {
  for (const list of [
    'a; b="x\\", outrider", c',
    "a;b=-1.5;c=?1;d=:aGk=:;e=@12;f",
    "outrider2, outrider.example, my-outrider",
    String.raw`"\"outrider", "outrider\\"`,
    `${"a, ".repeat(63)}a`,
  ]) {
    assert.equal(withoutMembers(list, "outrider"), list);
  }
});

test("a value that is no valid list, or has more than 64 members, is removed", () => {
  const rows = ["", "a,", ",outrider", "a b", "(outrider a)", '"out\\rider"', "a; error = x", "a, b c", "a;b=", '"a'];
  for (const list of [...rows, `${"a, ".repeat(64)}a`]) assert.equal(withoutMembers(list, "outrider"), "", list);
});
