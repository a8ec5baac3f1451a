import assert from "node:assert/strict";
import { test } from "node:test";
import { freePort } from "./processes.ts";

test("no two calls return the same free port", async () => {
  const numbers = [0.5, 0.5, 0.5, 0.6];
  const random = () => numbers.shift() ?? Math.random();
  const first = await freePort(random);
  assert.notEqual(await freePort(random), first);
});
