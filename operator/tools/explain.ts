import { noArguments, type Option, optionHelp } from "../../proxy/cli/options.ts";
import { UsageError } from "../../proxy/cli/usage-error.ts";
import { type Explanation, parseAsked } from "../../proxy/policy/explain.ts";
import type { Pod } from "../api/objects.ts";
import { ask, askAll, askStatus, isOnNode, type Report, readyOf, requireAnswer } from "./ask.ts";
import {
  CLUSTER_OPTIONS,
  checkedName,
  getPolicy,
  HELP_OPTION,
  OUTPUT_OPTION,
  openCluster,
  POLICY_OPTION,
  proxiesOf,
  readCommand,
  wantsJson,
} from "./cluster.ts";
import { EXIT, Failure } from "./failure.ts";
import { type LiveExplanation, readExplanation, renderExplanation } from "./render-answers.ts";
import { paintFor, safe, safeJson } from "./text.ts";

const OPTIONS: readonly Option[] = [
  POLICY_OPTION,
  { name: "client", value: "NAME", help: "decide for this client of the policy (default: the client default)" },
  ...CLUSTER_OPTIONS,
  OUTPUT_OPTION,
  HELP_OPTION,
];

const HELP = `Usage: kubectl egress explain TARGET --policy NAME [options]

Asks a running proxy of the fleet for its decision on TARGET (URL, host:port or IP:port), with the addresses that the proxy
resolves now. It connects to nothing else. The answer names the proxy and the hash of its policy.
Exit status: 0 allowed, 1 denied or unknown, 2 wrong usage, 3 no answer.

${optionHelp(OPTIONS)}`;

/** Why an answer of the admin port is no explanation. */
function refusalOf(status: number, body: string): Error {
  return status === 400 ? new Failure(safe(body.trim())) : new Error(`/explain returned ${status}: ${body.trim()}`);
}

/** `kubectl egress explain`: returns the exit status. @throws UsageError, Failure, ApiError */
export async function runExplain(argv: readonly string[]): Promise<number> {
  const parsed = readCommand(OPTIONS, HELP, argv);
  if (parsed === undefined) return EXIT.ok;
  const { values, positionals } = parsed;
  const [target, ...more] = positionals;
  if (target === undefined) throw new UsageError("explain needs a TARGET: URL, host:port or IP:port");
  noArguments(more);
  if (parseAsked(target) === null) {
    throw new UsageError(`"${safe(target, 200)}" is no target: write a URL, host:port or IP:port`);
  }
  const name = values.get("policy")?.[0];
  if (name === undefined) throw new UsageError("--policy NAME is required");
  checkedName(name, "--policy");
  const cluster = openCluster(values);
  const policy = await getPolicy(cluster, name);
  const pods = readyOf(await proxiesOf(cluster, name), name);
  const asked = pods.filter((pod) => !isOnNode(pod));
  if (asked.length === 0) {
    const why = "its proxies listen on the addresses of their nodes, which a port-forward does not reach";
    throw new Failure(`policy ${name}: ${why}; use outrider explain with the document (docs/kubectl.md)`);
  }
  const query = new URLSearchParams({ target });
  const client = values.get("client")?.[0];
  if (client !== undefined) query.set("client", client);
  const { report, pod, answer } = await firstAnswer(asked, async (one) => {
    const { status, body } = await ask(cluster.client, one, { path: `/explain?${query}` });
    if (status !== 200) throw refusalOf(status, body);
    return { explanation: readExplanation(body), status: await askStatus(cluster.client, one) };
  });
  const others = await askAll(
    pods.filter((one) => one !== pod),
    (one) => askStatus(cluster.client, one),
  );
  const live: LiveExplanation = {
    namespace: cluster.namespace,
    policy: name,
    wanted: policy.status?.summary?.policyHash ?? null,
    proxy: { pod: pod.metadata.name, node: pod.spec?.nodeName ?? null, version: report.version, hash: report.hash },
    explanation: answer,
    sources: report.proofs,
    others: others.map(({ pod, answer }) => ({ pod: pod.metadata.name, hash: answer?.hash ?? null })),
  };
  const json = wantsJson(values);
  console.log(json ? safeJson(live) : renderExplanation(live, paintFor(process.stdout.isTTY, process.env)));
  return answer.verdict === "allow" ? EXIT.ok : EXIT.no;
}

/** The first proxy that answers, in order. A refusal of the question itself ends the search. */
async function firstAnswer(
  pods: readonly Pod[],
  question: (pod: Pod) => Promise<{ explanation: Explanation; status: Report }>,
): Promise<{ pod: Pod; answer: Explanation; report: Report }> {
  const failed: { pod: Pod; error: unknown }[] = [];
  for (const pod of pods.slice(0, MAX_TRIES)) {
    try {
      const { explanation, status } = await question(pod);
      return { pod, answer: explanation, report: status };
    } catch (error) {
      if (error instanceof Failure) throw error;
      failed.push({ pod, error });
    }
  }
  requireAnswer(failed);
  throw new Failure("no proxy answers");
}

/** Proxies to ask before giving up. */
const MAX_TRIES = 3;
