import { join } from "node:path";
import type { KubeObject } from "../../operator/kube/resource.ts";
import type { ControlPlane } from "./plane.ts";
import type { Volume } from "./volumes.ts";

/** Source of the value of a variable. */
interface ValueFrom {
  fieldRef?: { fieldPath: string };
  secretKeyRef?: { name: string; key: string; optional?: boolean };
  configMapKeyRef?: { name: string; key: string; optional?: boolean };
}

export interface Container {
  name: string;
  args?: string[];
  env?: { name: string; value?: string; valueFrom?: ValueFrom }[];
  volumeMounts?: { name: string; mountPath: string; subPath?: string }[];
}

/** A pod of a fleet, with the fields that a kubelet uses. */
export interface FleetPod extends KubeObject {
  spec: {
    nodeName?: string;
    terminationGracePeriodSeconds?: number;
    containers: Container[];
    volumes?: Volume[];
  };
  status?: { phase?: string; podIP?: string; hostIP?: string; conditions?: Condition[] };
}

export interface Condition {
  type: string;
  status: string;
  lastTransitionTime?: string;
}

/** Values of the downward API for a pod. @throws when a field is not supported */
function fieldOf(pod: FleetPod, path: string): string | undefined {
  const label = /^metadata\.(labels|annotations)\['(.+)'\]$/.exec(path);
  if (label !== null) return pod.metadata[label[1] as "labels"]?.[label[2]!] ?? "";
  switch (path) {
    case "status.podIP":
      return pod.status?.podIP;
    case "status.hostIP":
      return pod.status?.hostIP;
    case "metadata.name":
      return pod.metadata.name;
    case "metadata.namespace":
      return pod.metadata.namespace;
    case "metadata.uid":
      return pod.metadata.uid;
    case "spec.nodeName":
      return pod.spec.nodeName;
    default:
      throw new Error(`${pod.metadata.name}: the field ${path} is not played`);
  }
}

/**
 * Expands `$(NAME)` of defined variables; `$$(NAME)` is the text `$(NAME)` (Kubernetes'
 * third_party/forked/golang/expansion).
 */
export function expand(text: string, env: Readonly<Record<string, string>>): string {
  return text.replace(/\$(\$|\(([^()]*)\))/g, (all, what: string, name: string | undefined) => {
    if (what === "$") return "$";
    return env[name!] ?? all;
  });
}

/** The environment of a container; undefined while a source is missing, which a kubelet waits for. */
export async function gatherEnv(
  plane: ControlPlane,
  pod: FleetPod,
  container: Container,
): Promise<Record<string, string> | undefined> {
  const env: Record<string, string> = {};
  for (const { name, value, valueFrom } of container.env ?? []) {
    if (valueFrom === undefined) {
      env[name] = expand(value ?? "", env);
      continue;
    }
    const from = valueFrom.secretKeyRef ?? valueFrom.configMapKeyRef;
    if (from === undefined) {
      const found = fieldOf(pod, valueFrom.fieldRef?.fieldPath ?? "");
      if (found === undefined) return undefined;
      env[name] = found;
      continue;
    }
    const kind = valueFrom.secretKeyRef === undefined ? "configmaps" : "secrets";
    const path = `/api/v1/namespaces/${pod.metadata.namespace}/${kind}/${from.name}`;
    const text = (await plane.get<{ data?: Record<string, string> }>(path))?.data?.[from.key];
    if (text !== undefined) env[name] = kind === "secrets" ? Buffer.from(text, "base64").toString() : text;
    else if (from.optional !== true) return undefined;
  }
  return env;
}

/**
 * A container's arguments for a process of this machine: paths below a mount lead to the folder of the volumes, and all
 * addresses of the pod become the pod's address.
 */
export function containerArgs(
  pod: FleetPod,
  container: Container,
  env: Record<string, string>,
  folder: string,
): string[] {
  const mounts = [...(container.volumeMounts ?? [])].sort((a, b) => b.mountPath.length - a.mountPath.length);
  for (const { name, subPath } of mounts) {
    if (subPath !== undefined) throw new Error(`${pod.metadata.name}: subPath of volume ${name} is not played`);
  }
  return (container.args ?? []).map((raw) => {
    const text = expand(raw, env).replace(
      /^(--(?:listen|listen-tls|listen-external|admin)=):/,
      `$1${pod.status!.podIP}:`,
    );
    const path = /^(?:--[\w-]+=)?(\/.*)$/.exec(text)?.[1];
    const mount = mounts.find(({ mountPath }) => path === mountPath || path?.startsWith(`${mountPath}/`));
    return mount === undefined ? text : text.replace(mount.mountPath, join(folder, mount.name));
  });
}
