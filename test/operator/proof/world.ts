import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { ANNOTATION } from "../../../operator/api/names.ts";
import { type ControlPlane, startControlPlane } from "../../cluster/control-plane.ts";
import { FleetRunner } from "../../cluster/fleet.ts";
import { install } from "../operator.ts";
import { Observer } from "./observer.ts";
import { type Behaviour, PlayedProxy } from "./played-proxy.ts";

/** The control plane of a run needs these; see `controlPlaneMissing`. */
export const PLANE = { kwokNodes: 14, realProxies: true } as const;
/** Static IPs that nodes have: the i-th one is on `node-i`. */
export const NODE_IPS = [0, 1, 2, 3, 4, 5].map((i) => `203.0.113.${10 + i}`);
/** Static IPs that follow ready pods, which run on the other nodes. */
export const VIPS = [0, 1, 2, 3, 4, 5, 6, 7].map((i) => `203.0.113.${50 + i}`);
/** An address that no node has. */
export const NOWHERE = "203.0.113.90";
/** Not in any grant. */
export const FOREIGN = "198.51.100.7";
const POOL = "proof.test/pool";
export const VIP_POOL = { [POOL]: "vip" };

/** Draining is long against the time that an exchange of proxies takes: an outage of a whole fleet shows. */
const DRAIN_MS = 2500;

/** One control plane with simulated nodes, played proxies, and an observer. */
export interface World {
  plane: ControlPlane;
  observer: Observer;
  behaviour: Behaviour;
  /** Namespaces whose proxies do not answer requests of their status. */
  silent: Set<string>;
  /** Played proxies by the uid of their pod, also those that have ended. */
  proxies: ReadonlyMap<string, PlayedProxy>;
  /** A `--grants` file. */
  grants(text: string): string;
  stop(): Promise<void>;
}

const GRANT = `grants: [{namespaces: ["*"], providers: [NodeAddress, KubeVIP], staticIPs: [203.0.113.0/24, 10.0.4.0/24]}]\n`;

/** Content of a grants file that gives every namespace all addresses of a world. */
export const ALL_GRANTED = GRANT;

async function prepareNodes(plane: ControlPlane): Promise<void> {
  for (let i = 0; i < PLANE.kwokNodes; i++) {
    const own = NODE_IPS[i];
    const annotations = own === undefined ? {} : { [ANNOTATION.addresses]: own };
    const labels = { [POOL]: own === undefined ? "vip" : "own" };
    await plane.patch(`/api/v1/nodes/node-${i}`, { metadata: { annotations, labels } });
  }
}

/** Gives the operator in every namespace what its Role gives it in its own: each lane has its own Lease. */
async function spreadRole(plane: ControlPlane): Promise<void> {
  const rbac = "/apis/rbac.authorization.k8s.io/v1";
  const role = await plane.get<{ rules: object[] }>(`${rbac}/namespaces/outrider-system/roles/outrider-operator`);
  const [apiVersion, metadata] = ["rbac.authorization.k8s.io/v1", { name: "proof-lanes" }];
  await plane.apply(`${rbac}/clusterroles/proof-lanes`, {
    apiVersion,
    kind: "ClusterRole",
    metadata,
    rules: role!.rules,
  });
  const roleRef = { apiGroup: "rbac.authorization.k8s.io", kind: "ClusterRole", name: "proof-lanes" };
  const subjects = [{ kind: "ServiceAccount", name: "outrider-operator", namespace: "outrider-system" }];
  const binding = { apiVersion, kind: "ClusterRoleBinding", metadata, roleRef, subjects };
  await plane.apply(`${rbac}/clusterrolebindings/proof-lanes`, binding);
}

export async function startWorld(): Promise<World> {
  const plane = await startControlPlane({ ...PLANE, install });
  const ends: (() => Promise<unknown>)[] = [() => plane.stop()];
  const stop = async () => {
    for (const end of ends.splice(0).reverse()) await end();
  };
  try {
    await spreadRole(plane);
    await prepareNodes(plane);
    const silent = new Set<string>();
    const behaviour: Behaviour = {
      drainMs: DRAIN_MS,
      proofMs: 100,
      moveMs: 100,
      statusMs: 0,
      silent: ({ metadata }) => silent.has(metadata.namespace!),
      has: (node, address) => NODE_IPS.indexOf(address) >= 0 && node === `node-${NODE_IPS.indexOf(address)}`,
    };
    const proxies = new Map<string, PlayedProxy>();
    const fleet = new FleetRunner(plane, {
      play: (pod, args) => {
        const proxy = new PlayedProxy(pod, args, behaviour);
        proxies.set(pod.metadata.uid!, proxy);
        return proxy;
      },
    });
    fleet.start();
    ends.push(() => fleet.stop());
    const observer = new Observer(plane);
    await observer.start();
    ends.push(() => observer.stop());
    let files = 0;
    const grants = (text: string) => {
      const file = join(plane.folder, `grants-${files++}.yaml`);
      writeFileSync(file, text);
      return file;
    };
    return { plane, observer, behaviour, silent, proxies, grants, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}
