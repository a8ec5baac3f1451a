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
  ["a new policy that is rejected", undefined, ["Accepted", "False", "Invalid"], "Warning"],
  ["a new policy without a proxy", undefined, ["ProxyAvailable", "False", "Unavailable"], undefined],
  [
    "an ordinary rolling update",
    ["ProxyAvailable", "True", "Available"],
    ["ProxyAvailable", "False", "Progressing"],
    undefined,
  ],
  [
    "the end of a rolling update",
    ["ProxyAvailable", "False", "Progressing"],
    ["ProxyAvailable", "True", "Available"],
    undefined,
  ],
  [
    "a rolling update without progress",
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
  [
    "the right source address",
    ["EgressIPVerified", "False", "Mismatch"],
    ["EgressIPVerified", "True", "Verified"],
    "Normal",
  ],
  [
    "echo servers that do not answer",
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
  [
    "a fleet that its owner scaled to 0",
    ["ProxyAvailable", "True", "Available"],
    ["ProxyAvailable", "False", "ScaledToZero"],
    "Warning",
  ],
  [
    "what follows from a fleet scaled to 0",
    ["PolicyDistributed", "True", "Distributed"],
    ["PolicyDistributed", "False", "ScaledToZero"],
    undefined,
  ],
  [
    "what follows from its start",
    ["PolicyDistributed", "False", "ScaledToZero"],
    ["PolicyDistributed", "True", "Distributed"],
    undefined,
  ],
  ["a NetworkPolicy that allows more", undefined, ["NetworkPolicyApplied", "True", "Widened"], "Warning"],
  ["a policy that becomes ready", ["Ready", "False", "Progressing"], ["Ready", "True", "Ready"], "Normal"],
  ["a problem that Ready repeats", ["Ready", "True", "Ready"], ["Ready", "False", "Mismatch"], undefined],
  ["an unknown condition", ["Ready", "True", "Ready"], ["Ready", "Unknown", "NoReadyProxy"], undefined],
  ["an unchanged condition", ["Accepted", "False", "Invalid"], ["Accepted", "False", "Invalid"], undefined],
] as const satisfies readonly (readonly [string, Short | undefined, Short, string | undefined])[]) {
  test(`${event ?? "no"} event: ${what}`, () => {
    const now = condition(after);
    const reported = isReported(now, before === undefined ? undefined : condition(before));
    assert.equal(reported ? (isTrouble(now) ? "Warning" : "Normal") : undefined, event);
  });
}
