import { setTimeout as sleep } from "node:timers/promises";
import { type Option, optionHelp } from "../../proxy/cli/options.ts";
import type { Pod } from "../api/objects.ts";
import type { Client } from "../kube/client.ts";
import { ASK_MS, ask, askAll, askStatus, isOnNode, type Report, readyOf, requireAnswer, whyNot } from "./ask.ts";
import {
  CLUSTER_OPTIONS,
  getPolicy,
  HELP_OPTION,
  OUTPUT_OPTION,
  onePolicy,
  openCluster,
  proxiesOf,
  readCommand,
  wantsJson,
} from "./cluster.ts";
import { EXIT, Failure } from "./failure.ts";
import { type CheckedPath, echoesOf, renderChecks } from "./render-answers.ts";
import { paintFor, safe, safeJson } from "./text.ts";

const OPTIONS: readonly Option[] = [...CLUSTER_OPTIONS, OUTPUT_OPTION, HELP_OPTION];

const HELP = `Usage: kubectl egress verify POLICY [options]

Makes each running proxy request the echo URLs of the policy now, and prints the address that each echo server saw. Proxies that
listen on the address of their node cannot be asked for a round; their last round is shown.
Exit status: 0 every source address is proven, 1 one is not, 2 wrong usage, 3 no answer.

${optionHelp(OPTIONS)}`;

const POLL_MS = 500;
/** Part of the time limit for the rounds. The rest is for the last answers. */
const ROUND_SHARE = 0.6;

/** Starts a round of one proxy and waits for its end. */
async function check(client: Client, pod: Pod, until: number): Promise<{ report: Report; fresh: boolean }> {
  const before = await askStatus(client, pod);
  if (isOnNode(pod) || before.proofs.length === 0) return { report: before, fresh: false };
  const { status, body } = await ask(client, pod, { method: "POST", path: "/verify" });
  if (status !== 202) throw new Error(`POST /verify returned ${status}: ${body.trim()}`);
  for (;;) {
    await sleep(POLL_MS);
    const report = await askStatus(client, pod, Math.min(ASK_MS, Math.max(1000, until - Date.now())));
    const fresh = report.proofs.every(({ way, checkedAt }) => {
      const old = before.proofs.find((proof) => proof.way === way);
      return checkedAt !== null && checkedAt !== old?.checkedAt;
    });
    if (fresh || Date.now() > until) return { report, fresh };
  }
}

/** `kubectl egress verify`: returns the exit status. @throws UsageError, Failure, ApiError */
export async function runVerify(argv: readonly string[]): Promise<number> {
  const parsed = readCommand(OPTIONS, HELP, argv);
  if (parsed === undefined) return EXIT.ok;
  const { values, positionals } = parsed;
  const name = onePolicy(positionals, "verify");
  const cluster = openCluster(values);
  const policy = await getPolicy(cluster, name);
  const urls = policy.spec.verification?.echoURLs ?? [];
  if (urls.length === 0) {
    throw new Failure(`policy ${name}: spec.verification.echoURLs is empty, so nothing can be proven; set it`);
  }
  const pods = readyOf(await proxiesOf(cluster, name), name, { anyRunning: true });
  const until = Date.now() + cluster.timeoutMs * ROUND_SHARE;
  const results = await askAll(pods, (pod) => check(cluster.client, pod, until));
  requireAnswer(results);
  const checks = results.flatMap(({ pod, answer }): CheckedPath[] =>
    (answer?.report.proofs ?? []).map((proof) => ({
      pod: pod.metadata.name,
      path: proof.way,
      verified: proof.verified,
      fresh: answer!.fresh,
      expected: proof.expected,
      echoes: echoesOf(urls, proof),
      error: proof.error,
    })),
  );
  const silent = results.filter(({ answer }) => answer === undefined);
  const unproven = results.filter(({ answer }) => answer !== undefined && answer.report.proofs.length === 0);
  const proven =
    silent.length === 0 &&
    unproven.length === 0 &&
    checks.every(({ verified, fresh, pod }) => {
      const one = pods.find(({ metadata }) => metadata.name === pod);
      return verified && (fresh || isOnNode(one!));
    });
  if (wantsJson(values)) {
    const errors = silent.map(({ pod, error }) => ({ pod: pod.metadata.name, error: whyNot(error) }));
    console.log(safeJson({ namespace: cluster.namespace, policy: name, proven, checks, errors }));
  } else {
    if (checks.length > 0) console.log(renderChecks(checks, paintFor(process.stdout.isTTY, process.env)));
    for (const { pod, error } of silent) console.log(`${safe(pod.metadata.name)}: no answer: ${safe(whyNot(error))}`);
    for (const { pod } of unproven) console.log(`${safe(pod.metadata.name)}: its policy has no verification yet`);
  }
  return proven ? EXIT.ok : EXIT.no;
}
