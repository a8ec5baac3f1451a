import { spawn } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { Agent, request } from "node:https";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type Finished, finish } from "../harness/finish.ts";
import { type AuditLine, readAudit, writes } from "./audit.ts";
import type { Block } from "./block.ts";
import type { Authority } from "./certificates.ts";
import { apiURL, type Component, etcdURL } from "./components.ts";
import { compactEtcd } from "./etcd.ts";
import type { WorkFolder } from "./folder.ts";
import type { Program } from "./processes.ts";

/** The answer of the API server to {@link ControlPlane.request}. */
export interface Answer<T = unknown> {
  status: number;
  body: T;
}

const READY_MS = 60_000;
const LOOK_MS = 50;
const WAIT_MS = 30_000;

/** The audit log in the folder of a control plane. */
export const AUDIT_LOG = "audit.log";

/** A real API server with its own etcd on loopback, with helpers for tests. */
export class ControlPlane {
  /** Its certificates, kubeconfigs and logs; removed at the end. */
  readonly folder: string;
  readonly url: string;
  readonly authority: Authority;
  /** Addresses of simulated pods and nodes: `127.A.`, of this control plane only. */
  readonly block: string;
  /** Whether the processes of fleet pods decide their readiness and end. */
  readonly realProxies: boolean;
  readonly #work: WorkFolder;
  readonly #block: Block;
  readonly #programs: Map<Component, Program>;
  readonly #kubectl: string;
  readonly #agent: Agent;

  constructor(parts: {
    work: WorkFolder;
    block: Block;
    authority: Authority;
    kubectl: string;
    programs: Map<Component, Program>;
    realProxies: boolean;
  }) {
    this.#work = parts.work;
    this.#block = parts.block;
    this.folder = parts.work.path;
    this.block = parts.block.prefix;
    this.url = apiURL(this.block);
    this.authority = parts.authority;
    this.realProxies = parts.realProxies;
    this.#kubectl = parts.kubectl;
    this.#programs = parts.programs;
    this.#agent = new Agent({ keepAlive: true, maxSockets: 8, ca: readFileSync(parts.authority.file) });
  }

  /** A kubeconfig file for a token, or for a client certificate. */
  kubeconfig(name: string, user: { token: string } | { cert: string; key: string }, server = this.url): string {
    const file = join(this.folder, `${name}.kubeconfig`);
    const credentials =
      "token" in user ? { token: user.token } : { "client-certificate": user.cert, "client-key": user.key };
    const config = {
      apiVersion: "v1",
      kind: "Config",
      "current-context": "test",
      contexts: [{ name: "test", context: { cluster: "test", user: "test" } }],
      clusters: [{ name: "test", cluster: { server, "certificate-authority": this.authority.file } }],
      users: [{ name: "test", user: credentials }],
    };
    writeFileSync(file, JSON.stringify(config), { mode: 0o600 });
    return file;
  }

  /** The kubeconfig of a user of {@link PlaneOptions.users}, or of `admin`. */
  userConfig(user = "admin", server = this.url): string {
    return this.kubeconfig(server === this.url ? user : `${user}-elsewhere`, { token: `${user}-token` }, server);
  }

  /** The kubeconfig of a user with a client certificate. */
  certificateConfig(user: string, group: string): string {
    return this.kubeconfig(user, this.authority.issue(user, `/O=${group}/CN=${user}`));
  }

  /** The kubeconfig of a ServiceAccount, by TokenRequest. */
  async accountConfig(namespace: string, name: string, server = this.url): Promise<string> {
    const path = `/api/v1/namespaces/${namespace}/serviceaccounts/${name}/token`;
    const body = { apiVersion: "authentication.k8s.io/v1", kind: "TokenRequest", spec: { expirationSeconds: 7200 } };
    const answer = await this.request<{ status: { token: string } }>("POST", path, body);
    if (answer.status !== 201) throw new Error(`no token for ${namespace}/${name}: ${JSON.stringify(answer.body)}`);
    // Each authentication has its own file: a program may read its file late.
    const way = server === this.url ? "" : `-by-${new URL(server).port}`;
    return this.kubeconfig(`${namespace}-${name}${way}`, { token: answer.body.status.token }, server);
  }

  /** One request as admin (`system:masters`). */
  request<T = unknown>(
    method: string,
    path: string,
    body?: unknown,
    headers: Record<string, string> = {},
  ): Promise<Answer<T>> {
    const payload = body === undefined ? undefined : JSON.stringify(body);
    const all: Record<string, string> = {
      authorization: "Bearer admin-token",
      "content-type": "application/json",
      ...headers,
    };
    // Without it node:http sends the body of a DELETE unframed (nodejs/node#27880).
    if (payload !== undefined) all["content-length"] = `${Buffer.byteLength(payload)}`;
    return new Promise((resolve, reject) => {
      const outgoing = request(`${this.url}${path}`, { method, headers: all, agent: this.#agent }, (response) => {
        const chunks: Buffer[] = [];
        response.on("data", (chunk: Buffer) => chunks.push(chunk));
        response.on("error", reject);
        response.on("end", () => {
          const text = Buffer.concat(chunks).toString("utf8");
          const json = response.headers["content-type"]?.startsWith("application/json");
          resolve({ status: response.statusCode ?? 0, body: (json ? JSON.parse(text) : text) as T });
        });
      });
      outgoing.on("error", reject);
      outgoing.end(payload);
    });
  }

  /** The object at a path; undefined when there is none. */
  async get<T>(path: string): Promise<T | undefined> {
    const { status, body } = await this.request<T>("GET", path);
    if (status === 404) return undefined;
    if (status !== 200) throw new Error(`GET ${path}: ${status} ${JSON.stringify(body)}`);
    return body;
  }

  /** Applies one object by server-side apply, or a part of it (`subresource`). */
  async apply(path: string, object: object, manager = "test"): Promise<void> {
    const query = `?fieldManager=${manager}&force=true`;
    const type = { "content-type": "application/apply-patch+yaml" };
    const { status, body } = await this.request("PATCH", `${path}${query}`, object, type);
    if (status > 201) throw new Error(`apply ${path}: ${status} ${JSON.stringify(body)}`);
  }

  /** Merge-patches the object at a path. */
  async patch(path: string, patch: object): Promise<void> {
    const type = { "content-type": "application/merge-patch+json" };
    const { status, body } = await this.request("PATCH", path, patch, type);
    if (status !== 200) throw new Error(`patch ${path}: ${status} ${JSON.stringify(body)}`);
  }

  async delete(path: string): Promise<void> {
    const { status, body } = await this.request("DELETE", path);
    if (status > 202 && status !== 404) throw new Error(`DELETE ${path}: ${status} ${JSON.stringify(body)}`);
  }

  /** Runs kubectl as a user would. */
  async kubectl(args: readonly string[], input?: string, kubeconfig = this.userConfig()): Promise<Finished> {
    const env = { ...process.env, KUBECACHEDIR: join(this.folder, "kubectl") };
    const child = spawn(this.#kubectl, ["--kubeconfig", kubeconfig, ...args], { env });
    // It may end without reading its input; stderr has the reason.
    child.stdin.on("error", () => undefined);
    child.stdin.end(input ?? "");
    return finish(child);
  }

  /** `kubectl apply --server-side -f -`; throws kubectl's error. */
  async applyYaml(text: string): Promise<void> {
    const { status, stderr } = await this.kubectl(["apply", "--server-side", "-f", "-"], text);
    if (status !== 0) throw new Error(`kubectl apply: ${stderr}`);
  }

  /** Polls a path until its object is as wanted, and returns it. Waits for a server that is down. */
  async until<T>(
    path: string,
    wanted: (found: T | undefined) => boolean,
    what: string,
    ms = WAIT_MS,
  ): Promise<T | undefined> {
    for (const began = Date.now(); ; await sleep(LOOK_MS)) {
      const found = await this.get<T>(path).catch((error: Error) => error);
      if (!(found instanceof Error) && wanted(found)) return found;
      if (Date.now() - began < ms) continue;
      const last = found instanceof Error ? found.message : JSON.stringify(found);
      throw new Error(`${what}: not within ${ms} ms; ${path} is ${last}`);
    }
  }

  program(name: Component): Program {
    const program = this.#programs.get(name);
    if (program === undefined) throw new Error(`${name} was not started`);
    return program;
  }

  /** Kills a component, by default as a crash would. */
  kill(name: Component, signal: NodeJS.Signals = "SIGKILL"): Promise<void> {
    return this.program(name).stop(signal);
  }

  /** Restarts a killed component with the same data, addresses and flags; waits for the API server's readiness. */
  async revive(name: Component): Promise<void> {
    this.program(name).start();
    if (name === "kube-apiserver") await this.untilReady();
  }

  async restart(name: Component, signal?: NodeJS.Signals): Promise<void> {
    await this.kill(name, signal);
    await this.revive(name);
  }

  async untilReady(): Promise<void> {
    for (const began = Date.now(); ; ) {
      const server = this.program("kube-apiserver");
      if (!server.running) throw new Error(`kube-apiserver ended: ${this.tail("kube-apiserver")}`);
      const ready = await this.request("GET", "/readyz").then(
        ({ status }) => status === 200,
        () => false,
      );
      if (ready) return;
      if (Date.now() - began > READY_MS) throw new Error(`not ready: ${this.tail("kube-apiserver")}`);
      await sleep(LOOK_MS);
    }
  }

  /** Deletes etcd's history. The API server keeps some of it; after its restart, older resourceVersions are too old. */
  compact(): Promise<void> {
    return compactEtcd(etcdURL(this.block));
  }

  /** The answered requests so far; a client may get its answer slightly earlier. */
  audit(): AuditLine[] {
    return readAudit(join(this.folder, AUDIT_LOG));
  }

  /** Write requests, optionally of one user only. */
  writes(user?: string): AuditLine[] {
    return this.audit().filter((line) => writes(line) && (user === undefined || line.user === user));
  }

  /** The last log lines of a component. */
  tail(name: Component): string {
    return this.program(name).tail;
  }

  /** Ends everything. Logs are kept until the end of the process, and longer if it ends with an error. */
  async stop(): Promise<void> {
    this.#agent.destroy();
    await Promise.all([...this.#programs.values()].map((program) => program.stop()));
    this.#block.release();
    this.#work.clear();
  }
}
