import assert from "node:assert/strict";
import { test } from "node:test";
import { noteTrace, type Trace } from "../../proxy/http/trace.ts";

function of(...headers: [string, string][]): Trace {
  const trace: Trace = {};
  noteTrace({ headers }, trace);
  return trace;
}

test("trace ids are bounded, and the first one counts", () => {
  assert.deepEqual(of(["Host", "x"], ["tracestate", "a=b"], ["X-Smokescreen-Trace-Id", ""]), {});
  assert.deepEqual(of(["TRACEPARENT", "a"], ["traceparent", "b"], ["X-Smokescreen-Trace-ID", "c".repeat(500)]), {
    traceparent: "a",
    traceId: "c".repeat(128),
  });
  assert.deepEqual(
    of(["x-smokescreen-trace-id", "a"], ["X-Smokescreen-Trace-Id", "b"], ["Traceparent", "d".repeat(500)]),
    {
      traceId: "a",
      traceparent: "d".repeat(128),
    },
  );
});

test("other fields are no trace ids, also with names of the same length", () => {
  assert.deepEqual(of(["X-Smokescreen-Trace-Ix", "a"], ["Tracepareny", "b"], ["A", "c"], ["traceparent", ""]), {});
});
