import assert from "node:assert/strict";
import { test } from "node:test";
import type { PolicyCondition } from "../../operator/api/conditions.ts";
import { isReported, isTrouble } from "../../operator/reconcile/status/condition-events.ts";

/** Condition changes that become events, and those that are warnings. */

type Short = readonly [
  type: PolicyCondition["type"],
  status: PolicyCondition["status"],
  reason: PolicyCondition["reason"],
];
const condition = ([type, status, reason]: Short): PolicyCondition => ({
  type,
  status,
  reason,
  message: "",
  observedGeneration: 1,
  lastTransitionTime: "2026-01-01T00:00:00Z",
});

for (const [what, before, after, event] of [
  ["a policy that is begun and not taken", undefined, ["Accepted", "False", "Invalid"], "Warning"],
  ["a policy that is begun and has no proxy yet", undefined, ["ProxyAvailable", "False", "Unavailable"], undefined],
  [
    "an ordinary roll-out",
    ["ProxyAvailable", "True", "Available"],
    ["ProxyAvailable", "False", "Progressing"],
    undefined,
  ],
  ["its end", ["ProxyAvailable", "False", "Progressing"], ["ProxyAvailable", "True", "Available"], undefined],
  [
    "one that does not end",
    ["ProxyAvailable", "False", "Progressing"],
    ["ProxyAvailable", "False", "ProgressDeadlineExceeded"],
    "Warning",
  ],
  [
    "a wrong source address",
    ["EgressIPVerified", "True", "Verified"],
    ["EgressIPVerified", "False", "Mismatch"],
    "Warning",
  ],
  ["the right one", ["EgressIPVerified", "False", "Mismatch"], ["EgressIPVerified", "True", "Verified"], "Normal"],
  [
    "echo servers that fall silent",
    ["EgressIPVerified", "True", "Verified"],
    ["EgressIPVerified", "True", "EchoSilent"],
    "Warning",
  ],
  [
    "echo servers that answer again",
    ["EgressIPVerified", "True", "EchoSilent"],
    ["EgressIPVerified", "True", "Verified"],
    undefined,
  ],
  ["a NetworkPolicy that opens more", undefined, ["NetworkPolicyApplied", "True", "Widened"], "Warning"],
  ["all is well", ["Ready", "False", "Progressing"], ["Ready", "True", "Ready"], "Normal"],
  ["what Ready repeats", ["Ready", "True", "Ready"], ["Ready", "False", "Mismatch"], undefined],
  ["what nobody knows", ["Ready", "True", "Ready"], ["Ready", "Unknown", "NoReadyProxy"], undefined],
  ["nothing new", ["Accepted", "False", "Invalid"], ["Accepted", "False", "Invalid"], undefined],
] as const satisfies readonly (readonly [string, Short | undefined, Short, string | undefined])[]) {
  test(`${event ?? "no"} event: ${what}`, () => {
    const now = condition(after);
    const told = isReported(now, before === undefined ? undefined : condition(before));
    assert.equal(told ? (isTrouble(now) ? "Warning" : "Normal") : undefined, event);
  });
}
