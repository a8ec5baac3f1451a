import { spawn } from "node:child_process";
import { generateKeyPairSync } from "node:crypto";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { Agent, request } from "node:https";
import { createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { opensslMissing } from "../harness/certificate.ts";
import { Authority } from "./certificates.ts";
import { makeNodes, startKwok } from "./kwok.ts";
import { freePort, Program } from "./processes.ts";
import { findTool, toolsMissing } from "./tools.ts";

/** How a control plane is started. */
export interface PlaneOptions {
  /** Simulated nodes; none: no kube-controller-manager, scheduler and kwok are needed, unless `controllers` is set. */
  kwokNodes?: number;
  /** Garbage collection, Deployments and ServiceAccounts also without nodes. */
  controllers?: boolean;
  /** Every request is written down ({@link ControlPlane.audit}). */
  audit?: boolean;
  /** Further users with a token each: name → groups. */
  users?: Readonly<Record<string, readonly string[]>>;
  /** Default: 10.96.0.0/16. */
  serviceCIDR?: string;
  apiServerFlags?: readonly string[];
}

/** One line of the audit log, as far as tests look. */
export interface AuditLine {
  verb: string;
  user: string;
  userAgent: string;
  path: string;
  code: number;
}

/** What the API server answers to {@link ControlPlane.request}. */
export interface Answer<T = unknown> {
  status: number;
  body: T;
}

type Component = "etcd" | "kube-apiserver" | "kube-controller-manager" | "kube-scheduler" | "kwok";

const COMPONENTS = ["etcd", "kube-apiserver", "kubectl"];
const CONTROLLERS = ["kube-controller-manager", "kube-scheduler"];
const READY_MS = 60_000;
const LOOK_MS = 50;
const WAIT_MS = 30_000;

/** Why no control plane can be started here; null when one can. */
export function controlPlaneMissing(options: PlaneOptions = {}): string | null {
  const nodes = (options.kwokNodes ?? 0) > 0;
  const names = [...COMPONENTS, ...(nodes || options.controllers ? CONTROLLERS : []), ...(nodes ? ["kwok"] : [])];
  return opensslMissing() ?? toolsMissing(names);
}

/** A real API server with its own etcd on loopback, and what tests do with it. */
export class ControlPlane {
  readonly folder: string;
  readonly url: string;
  readonly authority: Authority;
  /** Addresses of simulated pods and nodes: `127.A.`, of this control plane alone. */
  readonly block: string;
  readonly #holder: Server;
  readonly #programs: Map<Component, Program>;
  readonly #etcdURL: string;
  readonly #kubectl: string;
  readonly #agent: Agent;

  constructor(parts: {
    folder: string;
    port: number;
    etcdURL: string;
    authority: Authority;
    block: string;
    holder: Server;
    kubectl: string;
    programs: Map<Component, Program>;
  }) {
    this.folder = parts.folder;
    this.url = `https://127.0.0.1:${parts.port}`;
    this.authority = parts.authority;
    this.block = parts.block;
    this.#holder = parts.holder;
    this.#etcdURL = parts.etcdURL;
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
    return this.kubeconfig(`${namespace}-${name}`, { token: answer.body.status.token }, server);
  }

  /** One request as admin (`system:masters`). */
  request<T = unknown>(
    method: string,
    path: string,
    body?: unknown,
    headers: Record<string, string> = {},
  ): Promise<Answer<T>> {
    const payload = body === undefined ? undefined : JSON.stringify(body);
    const all = { authorization: "Bearer admin-token", "content-type": "application/json", ...headers };
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

  /** What stands at a path; undefined where nothing does. */
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

  /** Merge-patches what stands at a path. */
  async patch(path: string, patch: object): Promise<void> {
    const type = { "content-type": "application/merge-patch+json" };
    const { status, body } = await this.request("PATCH", path, patch, type);
    if (status !== 200) throw new Error(`patch ${path}: ${status} ${JSON.stringify(body)}`);
  }

  async delete(path: string): Promise<void> {
    const { status, body } = await this.request("DELETE", path);
    if (status > 202 && status !== 404) throw new Error(`DELETE ${path}: ${status} ${JSON.stringify(body)}`);
  }

  /** Runs kubectl as a person would. */
  async kubectl(
    args: readonly string[],
    input?: string,
    kubeconfig = this.userConfig(),
  ): Promise<{ status: number | null; stdout: string; stderr: string }> {
    const child = spawn(this.#kubectl, ["--kubeconfig", kubeconfig, ...args]);
    let stdout = "";
    let stderr = "";
    child.stdout.on("data", (chunk: Buffer) => {
      stdout += chunk;
    });
    child.stderr.on("data", (chunk: Buffer) => {
      stderr += chunk;
    });
    child.stdin.end(input ?? "");
    const status = await new Promise<number | null>((resolve, reject) => {
      child.once("error", reject);
      child.once("close", resolve);
    });
    return { status, stdout, stderr };
  }

  /** `kubectl apply --server-side -f -`; throws what kubectl says. */
  async applyYaml(text: string): Promise<void> {
    const { status, stderr } = await this.kubectl(["apply", "--server-side", "-f", "-"], text);
    if (status !== 0) throw new Error(`kubectl apply: ${stderr}`);
  }

  /** Looks at a path until it is as wanted; what stands there then. */
  async until<T>(
    path: string,
    wanted: (found: T | undefined) => boolean,
    what: string,
    ms = WAIT_MS,
  ): Promise<T | undefined> {
    for (const began = Date.now(); ; ) {
      const found = await this.get<T>(path);
      if (wanted(found)) return found;
      if (Date.now() - began > ms) throw new Error(`${what}: not within ${ms} ms; ${path} is ${JSON.stringify(found)}`);
      await sleep(LOOK_MS);
    }
  }

  program(name: Component): Program {
    const program = this.#programs.get(name);
    if (program === undefined) throw new Error(`${name} was not started`);
    return program;
  }

  /** Ends a component as a crash would. */
  kill(name: Component): Promise<void> {
    return this.program(name).stop("SIGKILL");
  }

  /** Starts a component again that was killed: same data, same port. */
  async revive(name: Component): Promise<void> {
    this.program(name).start();
    if (name === "kube-apiserver") await this.untilReady();
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

  /** Makes every resourceVersion of before too old. */
  async compact(): Promise<void> {
    const call = async (path: string, body: object) => {
      const response = await fetch(`${this.#etcdURL}${path}`, { method: "POST", body: JSON.stringify(body) });
      if (!response.ok) throw new Error(`etcd ${path}: ${response.status} ${await response.text()}`);
      return (await response.json()) as { header: { revision: string } };
    };
    const { header } = await call("/v3/kv/range", { key: "YQ==" });
    await call("/v3/kv/compaction", { revision: header.revision, physical: true });
  }

  /** Requests that were answered so far. */
  audit(): AuditLine[] {
    const file = join(this.folder, "audit.log");
    if (!existsSync(file)) return [];
    return readFileSync(file, "utf8")
      .split("\n")
      .slice(0, -1)
      .map((line) => {
        const event = JSON.parse(line) as {
          verb: string;
          user: { username: string };
          userAgent?: string;
          requestURI: string;
          responseStatus?: { code: number };
        };
        return {
          verb: event.verb,
          user: event.user.username,
          userAgent: event.userAgent ?? "",
          path: event.requestURI,
          code: event.responseStatus?.code ?? 0,
        };
      });
  }

  /** The last lines that a component wrote. */
  tail(name: Component): string {
    return readFileSync(this.program(name).log, "utf8").split("\n").slice(-15).join("\n");
  }

  /** Ends everything. With `keep` its folder, logs among it, stays and is named. */
  async stop(keep = false): Promise<void> {
    this.#agent.destroy();
    this.#holder.close();
    for (const program of [...this.#programs.values()].reverse()) await program.stop();
    if (keep) console.log(`logs of the control plane: ${this.folder}`);
    else rmSync(this.folder, { recursive: true, force: true });
    folders.delete(this.folder);
  }
}

const folders = new Set<string>();
process.on("exit", () => {
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
});

const AUDIT_POLICY = {
  apiVersion: "audit.k8s.io/v1",
  kind: "Policy",
  omitStages: ["RequestReceived", "ResponseStarted"],
  rules: [{ level: "Metadata" }],
};

/** A listener here says that a block is taken. */
const BLOCK_PORT = 4749;

/** Addresses of one control plane's simulated pods and nodes: a /16 of loopback, so that nothing leaves this machine. */
async function takeBlock(): Promise<{ block: string; holder: Server }> {
  for (;;) {
    const block = `127.${64 + Math.floor(Math.random() * 186)}.`;
    const holder = createServer();
    const taken = await new Promise<boolean>((resolve) => {
      holder.once("error", () => resolve(false));
      holder.listen(BLOCK_PORT, `${block}255.254`, () => resolve(true));
    });
    if (taken) return { block, holder: holder.unref() };
  }
}

/** Starts a control plane; it is ready when this resolves. */
export async function startControlPlane(options: PlaneOptions = {}): Promise<ControlPlane> {
  const nodes = options.kwokNodes ?? 0;
  const controllers = nodes > 0 || options.controllers === true;
  const [etcd, apiServer, kubectl] = (await Promise.all(COMPONENTS.map(findTool))) as [string, string, string];
  const folder = mkdtempSync(join(tmpdir(), "outrider-plane-"));
  folders.add(folder);
  const file = (name: string) => join(folder, name);
  const authority = new Authority(folder);
  const serving = authority.issue("apiserver", "/CN=kube-apiserver", [
    "IP:127.0.0.1",
    "DNS:localhost",
    "DNS:kubernetes.default.svc",
  ]);
  const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  writeFileSync(file("sa.key"), privateKey.export({ type: "pkcs8", format: "pem" }), { mode: 0o600 });
  const users = {
    admin: ["system:masters"],
    "system:kube-controller-manager": [],
    "system:kube-scheduler": [],
    ...options.users,
  };
  const tokens = Object.entries(users).map(([user, groups]) => `${user}-token,${user},${user},"${groups.join(",")}"\n`);
  writeFileSync(file("tokens.csv"), tokens.join(""), { mode: 0o600 });
  writeFileSync(file("audit.json"), JSON.stringify(AUDIT_POLICY));

  const [port, clientPort, peerPort] = [await freePort(), await freePort(), await freePort()];
  const etcdURL = `http://127.0.0.1:${clientPort}`;
  const peerURL = `http://127.0.0.1:${peerPort}`;
  const programs = new Map<Component, Program>();
  const { block, holder } = await takeBlock();
  const plane = new ControlPlane({ folder, port, etcdURL, authority, block, holder, kubectl, programs });
  const add = (name: Component, command: readonly string[]) => {
    const program = new Program(name, command, file(`${name}.log`));
    programs.set(name, program);
    program.start();
  };
  try {
    add("etcd", [
      etcd,
      `--data-dir=${file("etcd")}`,
      "--unsafe-no-fsync",
      `--listen-client-urls=${etcdURL}`,
      `--advertise-client-urls=${etcdURL}`,
      `--listen-peer-urls=${peerURL}`,
      `--initial-advertise-peer-urls=${peerURL}`,
      `--initial-cluster=default=${peerURL}`,
      "--log-level=error",
    ]);
    add("kube-apiserver", [
      apiServer,
      `--etcd-servers=${etcdURL}`,
      `--secure-port=${port}`,
      "--bind-address=127.0.0.1",
      "--advertise-address=127.0.0.1",
      // Its own endpoint would be a loopback address, which endpoints may not have.
      "--endpoint-reconciler-type=none",
      `--tls-cert-file=${serving.cert}`,
      `--tls-private-key-file=${serving.key}`,
      `--client-ca-file=${authority.file}`,
      `--token-auth-file=${file("tokens.csv")}`,
      `--service-account-key-file=${file("sa.key")}`,
      `--service-account-signing-key-file=${file("sa.key")}`,
      "--service-account-issuer=https://kubernetes.default.svc",
      `--service-cluster-ip-range=${options.serviceCIDR ?? "10.96.0.0/16"}`,
      "--authorization-mode=Node,RBAC",
      "--allow-privileged",
      `--audit-policy-file=${file("audit.json")}`,
      ...(options.audit ? [`--audit-log-path=${file("audit.log")}`] : []),
      ...(options.apiServerFlags ?? []),
    ]);
    await plane.untilReady();
    if (controllers) {
      const [manager, scheduler] = (await Promise.all(CONTROLLERS.map(findTool))) as [string, string];
      add("kube-controller-manager", [
        manager,
        `--kubeconfig=${plane.userConfig("system:kube-controller-manager")}`,
        `--service-account-private-key-file=${file("sa.key")}`,
        `--root-ca-file=${authority.file}`,
        "--use-service-account-credentials",
        "--leader-elect=false",
        "--secure-port=0",
        // With the default rate the first ServiceAccount takes five seconds.
        "--kube-api-qps=300",
        "--kube-api-burst=500",
      ]);
      const schedulerConfig = plane.userConfig("system:kube-scheduler");
      add("kube-scheduler", [scheduler, `--kubeconfig=${schedulerConfig}`, "--leader-elect=false", "--secure-port=0"]);
      await plane.until(
        "/api/v1/namespaces/default/serviceaccounts/default",
        (found) => found !== undefined,
        "the default ServiceAccount",
      );
    }
    if (nodes > 0) {
      add("kwok", await startKwok(plane));
      await makeNodes(plane, nodes);
    }
  } catch (error) {
    await plane.stop(true);
    throw error;
  }
  return plane;
}
