import { generateKeyPairSync } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { opensslMissing } from "../harness/certificate.ts";
import { AUDIT_POLICY } from "./audit.ts";
import { claimBlock, serverAddress, serviceRange } from "./block.ts";
import { Authority } from "./certificates.ts";
import { apiServerArgs, type Component, controllerArgs, etcdArgs, type Files, schedulerArgs } from "./components.ts";
import { workFolder } from "./folder.ts";
import { kwokArgs, makeNodes } from "./kwok.ts";
import { AUDIT_LOG, ControlPlane } from "./plane.ts";
import { Program, setprivMissing } from "./processes.ts";
import { findTool, getTools, toolsMissing } from "./tools.ts";

export type { AuditLine } from "./audit.ts";
export { type Answer, ControlPlane } from "./plane.ts";

/** Options of a control plane. */
export interface PlaneOptions {
  /**
   * Number of simulated nodes. Without nodes there is no kube-controller-manager, scheduler and kwok, unless
   * `controllers` is set.
   */
  kwokNodes?: number;
  /** Garbage collection, Deployments and ServiceAccounts also without nodes. */
  controllers?: boolean;
  /** Readiness and end of fleet pods depend on the processes of a `FleetRunner`; otherwise both are immediate. */
  realProxies?: boolean;
  /** Logs every request ({@link ControlPlane.audit}). */
  audit?: boolean;
  /** Additional users with a token each: name → groups. */
  users?: Readonly<Record<string, readonly string[]>>;
  /** Ranges of ClusterIPs, comma-separated. Default: its own loopback addresses. */
  serviceCIDR?: string;
  /**
   * Creates the network of real nodes and returns the address under which they reach the API server. Default: no real
   * nodes, everything uses loopback. Gets the folder of the control plane.
   */
  reach?: (folder: string) => string;
  /**
   * Creates objects before the controllers start. Garbage collection reads kinds at its start and then every 30 s: the
   * children of an object of a later kind may outlive it that long.
   */
  install?: (plane: ControlPlane) => Promise<void>;
  apiServerFlags?: readonly string[];
  controllerFlags?: readonly string[];
}

/** Options of a hook that starts a control plane: on a busy machine it takes longer than a test may. */
export const BOOT = { timeout: 180_000 };

/** The tools that a control plane with these options needs. */
export function planeTools(options: PlaneOptions = {}): string[] {
  const nodes = (options.kwokNodes ?? 0) > 0;
  const controllers = nodes || options.controllers === true;
  return [
    ...["etcd", "kube-apiserver", "kubectl"],
    ...(controllers ? ["kube-controller-manager", "kube-scheduler"] : []),
    ...(nodes ? ["kwok"] : []),
  ];
}

/** Why no control plane can be started here, for `skip`; null when it can, possibly after a build of its programs. */
export function controlPlaneMissing(options: PlaneOptions = {}): string | null {
  return opensslMissing() ?? setprivMissing() ?? toolsMissing(planeTools(options));
}

/** Writes keys, certificates and tokens. */
function makeFiles(
  folder: string,
  block: string,
  reach: string | undefined,
  options: PlaneOptions,
): { authority: Authority; files: Files } {
  const file = (name: string) => join(folder, name);
  const authority = new Authority(folder);
  const names = [`IP:${serverAddress(block)}`, "DNS:localhost", "DNS:kubernetes.default.svc"];
  // Pods use it by the first address of Services.
  if (reach !== undefined) names.push(`IP:${reach}`, "IP:10.96.0.1");
  const serving = authority.issue("apiserver", "/CN=kube-apiserver", names);
  const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  writeFileSync(file("sa.key"), privateKey.export({ type: "sec1", format: "pem" }), { mode: 0o600 });
  const users = {
    admin: ["system:masters"],
    "system:kube-controller-manager": [],
    "system:kube-scheduler": [],
    ...options.users,
  };
  const tokens = Object.entries(users).map(([user, groups]) => `${user}-token,${user},${user},"${groups.join(",")}"\n`);
  writeFileSync(file("tokens.csv"), tokens.join(""), { mode: 0o600 });
  writeFileSync(file("audit.json"), JSON.stringify(AUDIT_POLICY));
  const files: Files = {
    ca: authority.file,
    serving,
    accountKey: file("sa.key"),
    tokens: file("tokens.csv"),
    auditPolicy: file("audit.json"),
    auditLog: options.audit === true ? file(AUDIT_LOG) : undefined,
  };
  return { authority, files };
}

/**
 * Starts a control plane on its own loopback addresses; it is ready when this resolves. Its processes and its folder
 * are removed with this process, even if that is killed.
 */
export async function startControlPlane(options: PlaneOptions = {}): Promise<ControlPlane> {
  const nodes = options.kwokNodes ?? 0;
  const controllers = nodes > 0 || options.controllers === true;
  const tools = new Map<string, string>();
  await getTools(planeTools(options));
  for (const name of planeTools(options)) tools.set(name, await findTool(name));
  const block = await claimBlock();
  const work = workFolder("outrider-plane-");
  const reach = options.reach?.(work.path);
  const { authority, files } = makeFiles(work.path, block.prefix, reach, options);
  const programs = new Map<Component, Program>();
  const realProxies = options.realProxies === true;
  const plane = new ControlPlane({ work, block, authority, kubectl: tools.get("kubectl")!, programs, realProxies });
  const add = (name: Component, args: readonly string[]) => {
    const program = new Program(name, [tools.get(name)!, ...args], join(work.path, `${name}.log`));
    programs.set(name, program);
    program.start();
  };
  try {
    add("etcd", etcdArgs(block.prefix, work.path));
    const serviceCIDR = options.serviceCIDR ?? serviceRange(block.prefix);
    const apiServer = apiServerArgs(block.prefix, files, serviceCIDR, reach);
    add("kube-apiserver", [...apiServer, ...(options.apiServerFlags ?? [])]);
    await plane.untilReady();
    await options.install?.(plane);
    if (controllers) {
      const manager = controllerArgs(plane.userConfig("system:kube-controller-manager"), files);
      add("kube-controller-manager", [...manager, ...(options.controllerFlags ?? [])]);
      add("kube-scheduler", schedulerArgs(plane.userConfig("system:kube-scheduler")));
    }
    if (nodes > 0) {
      add("kwok", kwokArgs(plane, realProxies));
      await makeNodes(plane, nodes);
    }
    if (controllers) {
      const account = "/api/v1/namespaces/default/serviceaccounts/default";
      await plane.until(account, (found) => found !== undefined, "the default ServiceAccount");
    }
  } catch (error) {
    await plane.stop();
    const why = error instanceof Error ? error.message : String(error);
    throw new Error(`the control plane did not start: ${why}`, { cause: error });
  }
  return plane;
}
