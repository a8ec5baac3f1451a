import { spawn } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseAllDocuments } from "yaml";
import type { ControlPlane } from "../cluster/control-plane.ts";
import { type Finished, finish } from "../harness/finish.ts";

/** A hook of the chart, whose container runs here as a process. */
export interface Hook {
  run(more: NodeJS.ProcessEnv): Promise<Finished>;
  /** Deletes the account and the roles, as Helm does after the hook. */
  remove(): Promise<void>;
}

interface Container {
  command: string[];
  args: string[];
  env: { name: string; value: string }[];
}
interface HookObject {
  kind: string;
  metadata: { namespace?: string; annotations: Record<string, string> };
  spec: {
    serviceAccountName?: string;
    template?: HookObject["spec"] & { spec: HookObject["spec"] };
    containers: [Container];
  };
}

/**
 * Creates the account and roles of a hook, as Helm does, and runs its script as this account. `manifest`: of `helm get
 * hooks`. `name`: of the hook.
 */
export async function hookOf(plane: ControlPlane, manifest: string, name: string): Promise<Hook> {
  const parts = parseAllDocuments(manifest).filter(
    (part) => (part.toJS() as HookObject | null)?.metadata.annotations["helm.sh/hook"] === name,
  );
  const runs = (part: (typeof parts)[number]) => ["Job", "Pod"].includes(part.get("kind") as string);
  const rights = parts
    .filter((part) => !runs(part))
    .map(String)
    .join("---\n");
  await plane.applyYaml(rights);
  const object = parts.find(runs)!.toJS() as HookObject;
  const spec = object.spec.template?.spec ?? object.spec;
  const [{ command, args, env }] = spec.containers;
  const file = join(plane.folder, `hook-${name}-${Date.now()}.token`);
  const account = `/api/v1/namespaces/${object.metadata.namespace}/serviceaccounts/${spec.serviceAccountName}/token`;
  const body = { apiVersion: "authentication.k8s.io/v1", kind: "TokenRequest", spec: { expirationSeconds: 7200 } };
  const answer = await plane.request<{ status: { token: string } }>("POST", account, body);
  writeFileSync(file, answer.body.status.token);
  return {
    remove: async () => {
      const { status, stderr } = await plane.kubectl(["delete", "-f", "-"], rights);
      if (status !== 0) throw new Error(stderr);
    },
    run: (more) => {
      const own = Object.fromEntries(env.map((one) => [one.name, one.value]));
      const cluster = { API_URL: plane.url, TOKEN_FILE: file, NODE_EXTRA_CA_CERTS: plane.authority.file };
      const all = { PATH: process.env.PATH, ...own, ...cluster, ...more };
      const stdio: ["ignore", "pipe", "pipe"] = ["ignore", "pipe", "pipe"];
      return finish(spawn(process.execPath, [...command.slice(1), ...args], { env: all, stdio }));
    },
  };
}
