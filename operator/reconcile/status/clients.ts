import { DEFAULT_CLIENT } from "../../../proxy/policy/clients.ts";
import { plainLine } from "../../../proxy/policy/rules.ts";
import { counted, joinNames } from "../../api/conditions.ts";
import type { EgressPolicySpec, EgressPolicyStatus } from "../../api/egresspolicy.ts";
import { clientOf } from "../../injection/clients.ts";
import { optIn } from "../../injection/inject.ts";
import type { Facts, RequestingPod } from "../facts/facts.ts";

/** Characters of a name in a message. The annotation of a pod can have any text. */
const MAX_NAME_SHOWN = 128;

type ClientCounts = NonNullable<EgressPolicyStatus["clients"]>;

/** The clients of a spec, and pods whose client it does not list. */
export interface PodsByClient {
  /** In the order of the spec; undefined without clients. */
  counts: ClientCounts | undefined;
  /** Pods that name another client than the spec lists. */
  strangers: readonly RequestingPod[];
}

/** Pods that request a policy, by the client that they name. A pod without a name uses the shared password. Pure. */
export function podsByClient(
  { policy, requesting }: Pick<Facts, "policy" | "requesting">,
  { clients }: EgressPolicySpec,
): PodsByClient {
  if (clients === undefined) return { counts: undefined, strangers: [] };
  const pods = new Map(clients.map(({ name }) => [name, 0]));
  const strangers: RequestingPod[] = [];
  for (const one of requesting) {
    if (optIn(one.pod, one.namespaceLabels) !== policy.metadata.name) continue;
    const named = clientOf(one.pod);
    const known = pods.get(named ?? DEFAULT_CLIENT);
    if (known !== undefined) pods.set(named ?? DEFAULT_CLIENT, known + 1);
    else if (named !== undefined) strangers.push(one);
  }
  return { counts: clients.map(({ name }) => ({ name, pods: pods.get(name)! })), strangers };
}

/** A message about pods that name clients which the policy does not list; undefined without such pods. */
export function strangersText(strangers: readonly RequestingPod[]): string | undefined {
  if (strangers.length === 0) return undefined;
  const pods = counted(strangers.length, "pod names a client", "pods name clients");
  const names = [...new Set(strangers.map(({ pod }) => clientOf(pod)!))].sort();
  const shown = joinNames(names.map((name) => ({ metadata: { name: plainLine(name, MAX_NAME_SHOWN) } })));
  const fix = "add it to spec.clients, or correct the annotation egress.outrider.dev/client";
  return `${pods} that spec.clients does not list: ${joinNames(strangers.map(({ pod }) => pod))} (${shown}; ${fix})`;
}
