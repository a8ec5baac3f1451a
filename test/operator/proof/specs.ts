import { INVALID } from "../operator.ts";
import { FOREIGN, NODE_IPS, VIP_POOL, VIPS } from "./world.ts";

/** Specs of policies for the scenarios. Nothing dials the echo URL: proxies are played. */

export type StaticIP = { address: string; sourceAddress?: string; phase?: "Active" | "Pending" | "Retiring" };
export type Ports = { port: number; adminPort: number };

const VERIFICATION = { echoURLs: ["http://127.0.0.1:1/ip"], intervalSeconds: 1, timeoutSeconds: 1 };
const BASIC = { mode: "Basic", secretRef: { name: "proxy-passwords" } };

/** `edit` changes the document; `label` changes the pods. */
export interface Change {
  edit?: string;
  label?: string;
  replicas?: number;
  verified?: boolean;
}

const deny = ({ edit = "first" }: Change) => [{ hosts: [`${edit}.example`] }];
const labels = ({ label }: Change) => (label === undefined ? {} : { podLabels: { "proof.test/edit": label } });
const proven = ({ verified = true }: Change) => (verified ? { verification: VERIFICATION } : {});

export const external = (staticIPs: readonly StaticIP[], change: Change = {}) => ({
  deny: deny(change),
  nat: { provider: "External" },
  ...(staticIPs.length === 0 ? {} : { staticIPs, ...proven(change) }),
  proxy: { replicas: change.replicas ?? 2, ...labels(change) },
});

export const podIP = (change: Change = {}) => ({
  deny: deny(change),
  nat: { provider: "PodIP", podIP: { annotations: { "pool.example/name": "static" } } },
  proxy: { replicas: change.replicas ?? 2, ...labels(change) },
});

const slots = (nat: object, staticIPs: readonly StaticIP[], ports: Ports, change: Change, more: object = {}) => ({
  deny: deny(change),
  nat,
  staticIPs,
  ...proven(change),
  authentication: BASIC,
  proxy: { ...ports, ...labels(change), ...more },
});

export const nodeAddress = (staticIPs: readonly StaticIP[], ports: Ports, change: Change = {}) =>
  slots({ provider: "NodeAddress" }, staticIPs, ports, change);

export const kubeVIP = (staticIPs: readonly StaticIP[], ports: Ports, change: Change = {}) =>
  slots({ provider: "KubeVIP", kubeVIP: {} }, staticIPs, ports, change, { nodeSelector: VIP_POOL });

/** The schema allows it, and the operator rejects it. */
export const invalid = <T extends object>(spec: T) => ({
  ...spec,
  ...INVALID,
});

/** No grant covers its address. */
export const notGranted = (ports: Ports) => kubeVIP([{ address: FOREIGN }], ports);

export const own = (...indexes: number[]): StaticIP[] => indexes.map((i) => ({ address: NODE_IPS[i]! }));
export const vips = (...indexes: number[]): StaticIP[] => indexes.map((i) => ({ address: VIPS[i]! }));
export const inPhase = (phase: StaticIP["phase"], ips: readonly StaticIP[]): StaticIP[] =>
  ips.map((ip) => ({ ...ip, ...(phase === undefined ? {} : { phase }) }));
