import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { parse, stringify } from "yaml";
import { findTool, toolsMissing } from "../cluster/tools.ts";
import { finish } from "../harness/finish.ts";
import { tempFolder } from "../harness/proxy.ts";
import { CHART, helmDone, helmMissing, KUBE_VERSION } from "./helm.ts";

/** The alerts of the chart, as Prometheus evaluates them: each fires in time, lasts as long as its cause, and resolves. */

const skip = helmMissing() ?? toolsMissing(["promtool"]) ?? false;
const ALERTS: Record<string, { severity: string; summary: string; description: string }> = parse(
  readFileSync(join(CHART, "files/alerts.yaml"), "utf8"),
);

/** Interval of scrapes and of evaluations, in minutes. */
const STEP = 0.5;
/** Length of a story in minutes. */
const LENGTH = 180;
/** Time before the fault of a story, in minutes. */
const START = 10;

type Labels = Record<string, string>;
/** Times in minutes: from, and until. */
type Span = readonly [from: number, until: number];
/** Samples of a series: a value, undefined for none, null for the end of the series. */
type Sample = number | undefined | null;

/** Series in the notation of promtool. */
interface Series {
  series: string;
  values: string;
}

function series(name: string, labels: Labels, sample: (minute: number) => Sample): Series {
  const values: string[] = [];
  for (let minute = 0; minute <= LENGTH; minute += STEP) {
    const value = sample(minute);
    values.push(value === null ? "stale" : value === undefined ? "_" : `${value}`);
  }
  const pairs = Object.entries(labels).map(([key, value]) => `${key}="${value}"`);
  return { series: `${name}{${pairs.join(",")}}`, values: values.join(" ") };
}

/** Samples of 1 during these spans. Each span ends as a target or a series disappears: with a staleness marker. */
const during =
  (...spans: readonly Span[]) =>
  (minute: number): Sample => {
    if (spans.some(([from, until]) => minute >= from && minute < until)) return 1;
    return spans.some(([, until]) => minute === until) ? null : undefined;
  };

/** A counter of events at these times. `born`: the series begins with the first event. */
const counter =
  (times: readonly number[], born = false) =>
  (minute: number): Sample => {
    const count = times.filter((time) => time <= minute).length;
    return count === 0 && born ? undefined : count;
  };

/** When a controller creates a rejected pod again: from 5 ms, doubled up to 1000 s, as in client-go's work queues. */
function retries([from, until]: Span): number[] {
  const times: number[] = [];
  for (let minute = from, seconds = 0.005; minute < until; seconds = Math.min(2 * seconds, 1000)) {
    times.push(minute);
    minute += seconds / 60;
  }
  return times;
}

interface Expectation {
  alert: string;
  /** Labels of each alert that fires, besides alertname and severity. */
  firing: readonly Labels[];
  /** Minutes. */
  at: readonly number[];
}

const RELEASE = "outrider-system";

/** The rules of a release in a namespace. */
async function rulesOf(namespace: string, folder: string): Promise<string> {
  const options = ["--set", "monitoring.rules.enabled=true", "-s", "templates/rules.yaml"];
  const text = await helmDone(["template", "o", CHART, "-n", namespace, `--kube-version=${KUBE_VERSION}`, ...options]);
  const file = join(folder, `${namespace}.yaml`);
  writeFileSync(file, stringify(parse(text).spec));
  return file;
}

/** Lets Prometheus evaluate the rules of the releases, and compares the firing alerts with their texts. */
async function check(
  input: readonly Series[],
  expected: readonly Expectation[],
  releases: readonly string[] = [RELEASE],
): Promise<void> {
  const folder = tempFolder();
  const files = await Promise.all(releases.map((namespace) => rulesOf(namespace, folder)));
  const cases = expected.flatMap(({ alert, firing, at }) =>
    at.map((minute) => ({
      eval_time: `${minute * 60_000}ms`,
      alertname: alert,
      exp_alerts: firing.map((labels) => ({
        exp_labels: { ...labels, severity: ALERTS[alert]!.severity },
        exp_annotations: {
          summary: filled(ALERTS[alert]!.summary, labels),
          description: filled(ALERTS[alert]!.description, labels),
        },
      })),
    })),
  );
  const story = join(folder, "story.yaml");
  const interval = `${STEP * 60}s`;
  const tests = [{ interval, input_series: input, alert_rule_test: cases }];
  writeFileSync(story, stringify({ rule_files: files, evaluation_interval: interval, tests }));
  const child = spawn(await findTool("promtool"), ["test", "rules", story], { stdio: ["ignore", "pipe", "pipe"] });
  const { status, stdout, stderr } = await finish(child);
  assert.equal(status, 0, `${stdout}${stderr}`);
}

/** A text of an alert with its labels. */
const filled = (text: string, labels: Labels): string =>
  text.replaceAll(/\{\{ \$labels\.(\w+) \}\}/g, (_, name: string) => labels[name]!);

const POLICY = { namespace: "convoy", policy: "webhooks" };

/** A condition as a pod of the operator reports it. */
const condition = (pod: string, labels: Labels, spans: readonly Span[]): Series =>
  series("outrider_operator_policy_condition", { pod, ...POLICY, ...labels }, during(...spans));

/** Alerts about conditions: type, status and two reasons, and after how many minutes they fire. */
const CONDITIONS: readonly [alert: string, type: string, status: string, reasons: [string, string], after: number][] = [
  ["OutriderPolicyNotDistributed", "PolicyDistributed", "False", ["Propagating", "NoReadyProxy"], 5],
  ["OutriderPolicyNotAccepted", "Accepted", "False", ["Invalid", "Conflicted"], 10],
  ["OutriderPolicyNotReady", "Ready", "False", ["Progressing", "ApplyFailed"], 30],
  ["OutriderPolicyNotReady", "Ready", "Unknown", ["", ""], 30],
  ["OutriderPolicyNotProgrammed", "Programmed", "False", ["ApplyFailed", "NameTaken"], 10],
  ["OutriderNetworkPolicyNotApplied", "NetworkPolicyApplied", "False", ["TooLarge", "ApplyFailed"], 10],
  ["OutriderIPsUnassigned", "IPsAssigned", "False", ["Unassigned", "Unassigned"], 10],
  ["OutriderEgressIPUnverified", "EgressIPVerified", "False", ["Unproven", "Mismatch"], 2],
  ["OutriderProxiesDown", "PolicyDistributed", "False", ["NoReadyProxy", "NoReadyProxy"], 2],
  ["OutriderProxiesMissing", "ProxyAvailable", "False", ["Progressing", "ProgressDeadlineExceeded"], 15],
  ["OutriderFleetScaledToZero", "ProxyAvailable", "False", ["ScaledToZero", "ScaledToZero"], 120],
  ["OutriderSendersMissed", "WorkloadsInjected", "False", ["Missed", "Outdated"], 15],
];

for (const [alert, type, status, [first, second], after] of CONDITIONS) {
  test(`${alert}: ${status} fires, lasts across leaders, resolves`, { skip }, async () => {
    const end = Math.max(70, START + after + 20);
    const fires = (minute: number) => minute >= START + after;
    // Fail-overs before and after the alert fires. Between two leaders, no replica reports conditions.
    const input = [
      condition("a", { type, status: "True", reason: "Fine" }, [[0, START]]),
      condition("a", { type, status, reason: first }, [[START, START + 1]]),
      condition("b", { type, status, reason: second }, [[START + 2.5, 50]]),
      condition("c", { type, status, reason: second }, [[51.5, end]]),
      condition("c", { type, status: "True", reason: "Fine" }, [[end, LENGTH]]),
    ];
    await check(input, [
      { alert, firing: [], at: [START, START + 1, START + after - STEP, end, end + 3, LENGTH] },
      { alert, firing: [POLICY], at: [START + after, 49, 50, 50.5, 51, 51.5, 52, end - STEP].filter(fires) },
    ]);
  });
}

test("an alert about a condition ends with its policy", { skip }, async () => {
  const other = { pod: "a", namespace: "other", policy: "p", type: "Accepted", status: "True", reason: "Accepted" };
  const input = [
    condition("a", { type: "Accepted", status: "False", reason: "Invalid" }, [[0, 30]]),
    series("outrider_operator_policy_condition", other, during([0, LENGTH])),
  ];
  const alert = "OutriderPolicyNotAccepted";
  await check(input, [
    { alert, firing: [POLICY], at: [20, 29.5] },
    { alert, firing: [], at: [33.5, 60] },
  ]);
});

for (const [alert, type, reason] of [
  ["OutriderPolicyNotProgrammed", "Programmed", "Progressing"],
  ["OutriderPolicyNotProgrammed", "Programmed", "NotAccepted"],
  ["OutriderIPsUnassigned", "IPsAssigned", "NotAccepted"],
  ["OutriderProxiesDown", "PolicyDistributed", "Propagating"],
] as const) {
  test(`${alert} leaves ${reason} to another alert`, { skip }, async () => {
    await check(
      [condition("a", { type, status: "False", reason }, [[START, LENGTH]])],
      [{ alert, firing: [], at: [30, 60, LENGTH] }],
    );
  });
}

test("a fleet that its owner scaled to 0 fires one alert only", { skip }, async () => {
  const input = ["PolicyDistributed", "ProxyAvailable", "IPsAssigned", "Ready"].map((type) =>
    condition("a", { type, status: "False", reason: "ScaledToZero" }, [[START, LENGTH]]),
  );
  const about = [...new Set(CONDITIONS.map(([alert]) => alert))];
  const silent = about.filter((alert) => alert !== "OutriderFleetScaledToZero");
  await check(input, [
    ...silent.map((alert) => ({ alert, firing: [], at: [30, 60, 140, LENGTH - STEP] })),
    { alert: "OutriderFleetScaledToZero", firing: [], at: [60] },
    { alert: "OutriderFleetScaledToZero", firing: [POLICY], at: [140, LENGTH - STEP] },
  ]);
});

/** The counters of failed reviews, with a series of the time before the fault only if the program has one then. */
const FAILURES = [
  {
    alert: "OutriderWebhookUnreachable",
    metric: "apiserver_admission_webhook_rejection_count",
    labels: { name: "inject.egress.outrider.dev", error_type: "calling_webhook_error", type: "admit" },
    born: true,
    firing: {},
  },
  {
    alert: "OutriderWebhookErrors",
    metric: "outrider_webhook_reviews_total",
    labels: { namespace: RELEASE, pod: "a", result: "failed" },
    born: false,
    firing: { namespace: RELEASE },
  },
];

for (const { alert, metric, labels, born, firing } of FAILURES) {
  test(`${alert} lasts while retries of controllers are rare`, { skip }, async () => {
    const times = retries([START, 120]);
    const [last] = times.slice(-1) as [number];
    const every = Array.from({ length: Math.floor(last) - 15 }, (_, index) => 16 + index);
    await check(
      [series(metric, labels, counter(times, born))],
      [
        { alert, firing: [], at: [0, START, 14, Math.ceil(last) + 21, LENGTH] },
        { alert, firing: [firing], at: every },
      ],
    );
  });

  test(`${alert} counts the first failure`, { skip }, async () => {
    const times = [0, 4, 8, 12].map((minute) => START + minute);
    await check(
      [series(metric, labels, counter(times, born))],
      [
        { alert, firing: [], at: [START, 14.5] },
        { alert, firing: [firing], at: [16, 22, 26, 40] },
        { alert, firing: [], at: [43, LENGTH] },
      ],
    );
  });

  test(`${alert} ignores failures of a moment`, { skip }, async () => {
    const times = [START, START + 0.1, 60, 60.1];
    const at = Array.from({ length: LENGTH }, (_, minute) => minute);
    await check([series(metric, labels, counter(times, born))], [{ alert, firing: [], at }]);
  });
}

test("OutriderEgressIPMismatch fires at once, lasts and resolves", { skip }, async () => {
  const labels = { namespace: "convoy", pod: "webhooks-0" };
  // Without a proof, a proxy asks every 2 s. The pod starts with the fault.
  const times = Array.from({ length: 600 }, (_, index) => START + index / 30);
  const alert = "OutriderEgressIPMismatch";
  await check(
    [series("outrider_proxy_egress_mismatch_total", labels, counter(times, true))],
    [
      { alert, firing: [], at: [0, START, 36, LENGTH] },
      { alert, firing: [labels], at: [START + 1, 20, 30] },
    ],
  );
});

const leader = (namespace: string, pod: string, ...spans: Span[]): Series =>
  series("leader_election_master_status", { name: "outrider-operator", namespace, pod }, during(...spans));

test("OutriderOperatorDown names each release without a leader", { skip }, async () => {
  const input = [
    leader("team-a", "a1", [0, START], [50, LENGTH]),
    leader("team-b", "b1", [0, 20], [21.5, 30]),
    leader("team-b", "b2", [60, LENGTH]),
  ];
  const alert = "OutriderOperatorDown";
  const [a, b] = [{ namespace: "team-a" }, { namespace: "team-b" }];
  const expected = [
    { alert, firing: [], at: [0, START, 14.5, 60, LENGTH] },
    { alert, firing: [a], at: [15, 21, 34.5] },
    { alert, firing: [a, b], at: [35, 49.5] },
    { alert, firing: [b], at: [50, 59.5] },
  ];
  await check(input, expected, ["team-a", "team-b"]);
});

test("OutriderOperatorDown ignores a fail-over, and fires for a follower", { skip }, async () => {
  const follower = { name: "outrider-operator", namespace: RELEASE, pod: "c" };
  const input = [
    leader(RELEASE, "a", [0, START]),
    leader(RELEASE, "b", [START + 2, 60]),
    series("leader_election_master_status", follower, () => 0),
  ];
  const alert = "OutriderOperatorDown";
  await check(input, [
    { alert, firing: [], at: [START + 1, START + 5, 59.5, 64.5] },
    { alert, firing: [{ namespace: RELEASE }], at: [65, LENGTH] },
  ]);
});

test("OutriderUpgradePaused fires while a failed fleet holds up others, also across leaders", { skip }, async () => {
  const fleets = (pod: string, state: string, count: (minute: number) => number, ...spans: Span[]): Series =>
    series("outrider_operator_upgrade_fleets", { namespace: RELEASE, pod, state }, (minute) => {
      const sample = during(...spans)(minute);
      return sample === 1 ? count(minute) : sample;
    });
  const failed = (minute: number) => (minute < START || minute >= 70 ? 0 : 1);
  // Nothing waits in the end, although the fleet still fails.
  const waiting = (minute: number) => (minute < 60 ? 7 : 0);
  const input = ["a", "b"].flatMap((pod) => {
    const span: Span = pod === "a" ? [0, 30] : [31.5, LENGTH];
    return [fleets(pod, "failed", failed, span), fleets(pod, "waiting", waiting, span)];
  });
  const alert = "OutriderUpgradePaused";
  await check(input, [
    { alert, firing: [], at: [0, START, START + STEP, 60, 65, LENGTH] },
    { alert, firing: [{ namespace: RELEASE }], at: [START + 1, 29.5, 30.5, 31, 32, 59.5] },
  ]);
});

test("OutriderWebhookErrors and the certificate are those of each release", { skip }, async () => {
  const [a, b] = [{ namespace: "team-a" }, { namespace: "team-b" }];
  const days = (count: number) => count * 24 * 3600;
  const input = [
    // The fault of team-b begins while that of team-a lasts.
    series("outrider_webhook_reviews_total", { ...a, result: "failed" }, counter(retries([START, LENGTH]))),
    series("outrider_webhook_reviews_total", { ...b, result: "invalid" }, counter(retries([60, LENGTH]))),
    series("outrider_webhook_certificate_end_seconds", a, () => days(2)),
    series("outrider_webhook_certificate_end_seconds", { ...b, pod: "1" }, (minute) =>
      minute < 60 ? days(3) + START * 60 : days(90),
    ),
    series("outrider_webhook_certificate_end_seconds", { ...b, pod: "2" }, () => days(90)),
  ];
  const errors = "OutriderWebhookErrors";
  const certificate = "OutriderCertificateExpiring";
  const expected = [
    { alert: errors, firing: [], at: [0, 14] },
    { alert: errors, firing: [a], at: [17, 64] },
    { alert: errors, firing: [a, b], at: [67, LENGTH] },
    { alert: certificate, firing: [], at: [0, 9.5] },
    { alert: certificate, firing: [a], at: [10, 20] },
    { alert: certificate, firing: [a, b], at: [21, 59.5] },
    { alert: certificate, firing: [a], at: [60, LENGTH] },
  ];
  await check(input, expected, ["team-a", "team-b"]);
});

test("every alert has a story", () => {
  const covered = [
    ...CONDITIONS.map(([alert]) => alert),
    ...FAILURES.map(({ alert }) => alert),
    "OutriderEgressIPMismatch",
    "OutriderOperatorDown",
    "OutriderCertificateExpiring",
    "OutriderUpgradePaused",
  ];
  assert.deepEqual([...new Set(covered)].sort(), Object.keys(ALERTS).sort());
});
