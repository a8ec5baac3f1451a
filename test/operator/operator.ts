import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parseAllDocuments } from "yaml";
import type { EgressPolicy } from "../../operator/api/egresspolicy.ts";
import type { ControlPlane } from "../cluster/control-plane.ts";
import { freePort, inheritedEnv, Program } from "../cluster/processes.ts";
import { OUTRIDER } from "../harness/proxy.ts";

const ROOT = new URL("../..", import.meta.url).pathname;
const START_MS = 45_000;

/** Part of a spec that the schema allows and the operator rejects: letters of both directions in one label. */
export const INVALID = { allow: [{ hosts: ["a\u05d0.example"] }] };

/** The path of the Lease by which one operator of several acts. */
export const LEASE = "/apis/coordination.k8s.io/v1/namespaces/outrider-system/leases/outrider-operator";

/** An operator that runs as a process, under exactly the role that is shipped. */
export interface Operator {
  program: Program;
  health: string;
  metrics: string;
  /** Waits until it leads. */
  untilLeading(ms?: number): Promise<void>;
  /** All that it logged. */
  log(): string;
  /** Status and text of a page of its health or metrics port. */
  page(url: string): Promise<{ status: number; text: string }>;
  stop(signal?: NodeJS.Signals): Promise<void>;
}

/** Installs the CRD, and the operator's namespace, account and role. Its Deployment is left out: it runs as a process. */
export async function install(plane: ControlPlane): Promise<void> {
  await plane.applyYaml(readFileSync(join(ROOT, "crds/egresspolicies.yaml"), "utf8"));
  const manifest = readFileSync(join(ROOT, "examples/operator/operator.yaml"), "utf8");
  const parts = parseAllDocuments(manifest).filter((part) => part.get("kind") !== "Deployment");
  await plane.applyYaml(parts.map(String).join("---\n"));
  type Crd = { status?: { conditions?: { type: string; status: string }[] } };
  const established = (crd: Crd | undefined) =>
    crd?.status?.conditions?.some(({ type, status }) => type === "Established" && status === "True") ?? false;
  const path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/egresspolicies.egress.outrider.dev";
  await plane.until(path, established, "the CRD is established");
}

export interface OperatorOptions {
  args?: readonly string[];
  /** URL of a proxy to the API server. */
  server?: string;
  /** Default: a new one for the ServiceAccount of the operator. */
  kubeconfig?: string;
  name?: string;
  /** Image of the proxies. Default: outrider:test. */
  image?: string;
  /** Namespace of the Lease. Default: outrider-system. */
  leaseNamespace?: string;
  /**
   * Whether the test reads its health or metrics page. Otherwise the system chooses the ports, since another program may take a
   * port that was free. Default: true.
   */
  hasPages?: boolean;
  /** The program to start with the arguments of `outrider operator`. Default: the command of users. */
  command?: readonly string[];
}

/** Starts an operator as its ServiceAccount. */
export async function startOperator(plane: ControlPlane, options: OperatorOptions = {}): Promise<Operator> {
  const account = ["outrider-system", "outrider-operator"] as const;
  const config = options.kubeconfig ?? (await plane.accountConfig(...account, options.server ?? plane.url));
  const [health, metrics] = [await freePort(), await freePort()];
  const { name = "operator", hasPages = true } = options;
  const args = [
    "operator",
    `--kubeconfig=${config}`,
    `--proxy-image=${options.image ?? "outrider:test"}`,
    `--lease-namespace=${options.leaseNamespace ?? "outrider-system"}`,
    `--health=127.0.0.1:${hasPages ? health : 0}`,
    `--metrics=127.0.0.1:${hasPages ? metrics : 0}`,
    ...(options.args ?? []),
  ];
  const program = new Program(
    name,
    [...(options.command ?? [OUTRIDER]), ...args],
    join(plane.folder, `${name}-${health}.log`),
    inheritedEnv(),
  );
  program.start();
  const log = () => readFileSync(program.log, "utf8");
  return {
    program,
    health: `http://127.0.0.1:${health}`,
    metrics: `http://127.0.0.1:${metrics}`,
    log,
    page: async (url) => {
      const response = await fetch(url);
      return { status: response.status, text: await response.text() };
    },
    untilLeading: async (ms = START_MS) => {
      for (const began = Date.now(); !log().includes("leading: policies are reconciled"); ) {
        if (!program.running) throw new Error(`the operator ended with ${program.exitCode}: ${log()}`);
        if (Date.now() - began > ms) throw new Error(`the operator does not lead: ${log()}`);
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
    },
    stop: (signal = "SIGTERM") => program.stop(signal),
  };
}

/**
 * Warnings and errors that an operator has logged from a position in its log. A test that expects none takes
 * `operator.log().length` as its start, so that it does not fail for the warnings of others.
 */
export const warningsOf = (operator: Operator, from = 0): string[] =>
  operator
    .log()
    .slice(from)
    .split("\n")
    .filter((line) => /"level":"(warn|error|fatal)"/.test(line));

/** The path of a policy. */
export const policyPath = (namespace: string, name: string): string =>
  `/apis/egress.outrider.dev/v1alpha1/namespaces/${namespace}/egresspolicies/${name}`;

/** Applies a policy. */
export function applyPolicy(plane: ControlPlane, namespace: string, name: string, spec: object): Promise<void> {
  const metadata = { name, namespace };
  const policy = { apiVersion: "egress.outrider.dev/v1alpha1", kind: "EgressPolicy", metadata, spec };
  return plane.apply(policyPath(namespace, name), policy);
}

/** Makes a namespace. */
export async function makeNamespace(plane: ControlPlane, name: string): Promise<void> {
  await plane.apply(`/api/v1/namespaces/${name}`, { apiVersion: "v1", kind: "Namespace", metadata: { name } });
}

/** Creates the Secret `proxy-passwords` with one client. */
export async function makePasswords(plane: ControlPlane, namespace: string): Promise<void> {
  const secret = { apiVersion: "v1", kind: "Secret", metadata: { name: "proxy-passwords" } };
  const stringData = { PROXY_PASSWORD: "s3cret" };
  await plane.apply(`/api/v1/namespaces/${namespace}/secrets/proxy-passwords`, { ...secret, stringData });
}

/** A condition of a policy. */
export function conditionOf(policy: EgressPolicy | undefined, type: string) {
  return policy?.status?.conditions?.find((condition) => condition.type === type);
}

/** Waits until a condition of the newest spec has a status, and a reason if one is named. */
export async function untilCondition(
  plane: ControlPlane,
  namespace: string,
  name: string,
  type: string,
  status: string,
  reason?: string,
  ms = 30_000,
): Promise<EgressPolicy> {
  const wanted = (policy: EgressPolicy | undefined) => {
    const found = conditionOf(policy, type);
    const current = found?.observedGeneration === policy?.metadata.generation;
    return current && found?.status === status && (reason === undefined || found.reason === reason);
  };
  const what = `${type}=${status}${reason ? `, ${reason}` : ""}`;
  return (await plane.until<EgressPolicy>(policyPath(namespace, name), wanted, what, ms))!;
}
