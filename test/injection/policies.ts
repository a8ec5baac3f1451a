import type { EgressPolicy } from "../../operator/api/egresspolicy.ts";
import type { JsonPatch, PodLike } from "../../operator/injection/inject.ts";
import type { InjectionTarget } from "../../operator/injection/variables.ts";
import { withDefaults } from "../harness/defaults.ts";

/** Injection target of the policy `convoy/webhooks` with this spec. */
export function targetOf(spec: object, clusterIP?: string): InjectionTarget {
  const host = "webhooks-egress.convoy.svc.cluster.local";
  const policy = {
    apiVersion: "egress.outrider.dev/v1alpha1",
    kind: "EgressPolicy",
    metadata: { name: "webhooks", namespace: "convoy" },
    spec: withDefaults(spec),
    ...(clusterIP === undefined ? {} : { status: { endpoint: { host, port: 4750, clusterIP } } }),
  } as EgressPolicy;
  return { policy, host, port: 4750 };
}

/** RFC 6902 to the letter, written apart from what makes the patches: a path that is not there is an error. */
export function applied(pod: PodLike, patch: readonly JsonPatch[]): PodLike {
  const root = structuredClone(pod) as unknown;
  for (const { op, path, value } of patch) {
    if (!path.startsWith("/")) throw new Error(`${path}: no JSON pointer`);
    const steps = path.slice(1).split("/");
    const keys = steps.map((step) => step.replaceAll("~1", "/").replaceAll("~0", "~"));
    const last = keys.pop()!;
    let parent = root;
    for (const key of keys) {
      if (typeof parent !== "object" || parent === null || !Object.hasOwn(parent, key))
        throw new Error(`${path}: no ${key}`);
      parent = (parent as Record<string, unknown>)[key];
    }
    if (typeof parent !== "object" || parent === null) throw new Error(`${path}: its parent holds nothing`);
    const copy = structuredClone(value);
    if (Array.isArray(parent)) {
      const index = last === "-" && op === "add" ? parent.length : Number(last);
      const end = op === "add" ? parent.length : parent.length - 1;
      if (!/^(0|[1-9]\d*|-)$/.test(last) || index > end) throw new Error(`${path}: no such place in ${parent.length}`);
      if (op === "add") parent.splice(index, 0, copy);
      else if (op === "remove") parent.splice(index, 1);
      else parent[index] = copy;
      continue;
    }
    const map = parent as Record<string, unknown>;
    if (op !== "add" && !Object.hasOwn(map, last)) throw new Error(`${path}: nothing to ${op}`);
    if (op !== "remove" && value === undefined) throw new Error(`${path}: no value`);
    if (op === "remove") delete map[last];
    else map[last] = copy;
  }
  return root as PodLike;
}

/**
 * The environment that a container has in the end, as the kubelet makes it: in order, the last of a name wins, `$(NAME)` is
 * what came before and stays as it is where nothing did, `$$(` is `$(` (k8s.io/kubernetes third_party/forked/golang/expansion).
 */
export function environment(
  env: readonly { name: string; value?: string; valueFrom?: Record<string, unknown> }[],
  secrets: Readonly<Record<string, Readonly<Record<string, string>>>> = {},
): Record<string, string> {
  const result: Record<string, string> = {};
  for (const { name, value = "", valueFrom } of env) {
    if (valueFrom === undefined) {
      result[name] = value.replace(/\$\$|\$\(([^)]*)\)/g, (text, key?: string) =>
        key === undefined ? "$" : (result[key] ?? text),
      );
      continue;
    }
    const { name: secret, key } = valueFrom.secretKeyRef as { name: string; key: string };
    const found = secrets[secret]?.[key];
    if (found === undefined) throw new Error(`CreateContainerConfigError: no key ${key} in Secret ${secret}`);
    result[name] = found;
  }
  return result;
}
