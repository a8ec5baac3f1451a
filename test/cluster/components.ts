import { isIPv6 } from "node:net";
import { join } from "node:path";
import { serverAddress } from "./block.ts";

/** The programs of a control plane. */
export type Component = "etcd" | "kube-apiserver" | "kube-controller-manager" | "kube-scheduler" | "kwok";

/** Addresses of a control plane's servers. */
export const apiURL = (block: string): string => `https://${serverAddress(block)}:${API_PORT}`;
export const etcdURL = (block: string): string => `http://${serverAddress(block)}:2379`;
const peerURL = (block: string): string => `http://${serverAddress(block)}:2380`;
const API_PORT = 6443;

/**
 * Addresses in the endpoints of the Service `kubernetes`, where loopback is not allowed. No program listens on or dials
 * them (RFC 5737, RFC 3849). The family has to be that of the first range of Services.
 */
const ADVERTISED = { four: "192.0.2.1", six: "2001:db8::1" };

export function etcdArgs(block: string, folder: string): string[] {
  return [
    `--data-dir=${join(folder, "etcd")}`,
    // Test data need not survive a crash of the machine.
    "--unsafe-no-fsync",
    `--listen-client-urls=${etcdURL(block)}`,
    `--advertise-client-urls=${etcdURL(block)}`,
    `--listen-peer-urls=${peerURL(block)}`,
    `--initial-advertise-peer-urls=${peerURL(block)}`,
    `--initial-cluster=default=${peerURL(block)}`,
    "--log-level=error",
  ];
}

/** Files of a control plane. */
export interface Files {
  ca: string;
  serving: { cert: string; key: string };
  accountKey: string;
  tokens: string;
  auditPolicy: string;
  /** Undefined: no audit log. */
  auditLog: string | undefined;
}

/** `reach`: an address under which nodes and pods reach it; undefined: only loopback does. */
export function apiServerArgs(block: string, files: Files, serviceCIDR: string, reach: string | undefined): string[] {
  const advertised = reach ?? (isIPv6(serviceCIDR.split("/")[0]!) ? ADVERTISED.six : ADVERTISED.four);
  return [
    `--etcd-servers=${etcdURL(block)}`,
    `--secure-port=${API_PORT}`,
    `--bind-address=${reach === undefined ? serverAddress(block) : "0.0.0.0"}`,
    `--advertise-address=${advertised}`,
    `--tls-cert-file=${files.serving.cert}`,
    `--tls-private-key-file=${files.serving.key}`,
    `--client-ca-file=${files.ca}`,
    `--token-auth-file=${files.tokens}`,
    `--service-account-key-file=${files.accountKey}`,
    `--service-account-signing-key-file=${files.accountKey}`,
    "--service-account-issuer=https://kubernetes.default.svc",
    `--service-cluster-ip-range=${serviceCIDR}`,
    "--authorization-mode=Node,RBAC",
    "--allow-privileged",
    "--kubelet-preferred-address-types=InternalIP",
    ...(files.auditLog === undefined
      ? []
      : [`--audit-policy-file=${files.auditPolicy}`, `--audit-log-path=${files.auditLog}`]),
  ];
}

export function controllerArgs(kubeconfig: string, files: Files): string[] {
  return [
    `--kubeconfig=${kubeconfig}`,
    `--service-account-private-key-file=${files.accountKey}`,
    `--root-ca-file=${files.ca}`,
    "--use-service-account-credentials",
    "--leader-elect=false",
    "--secure-port=0",
    // With the default rate the first ServiceAccount takes five seconds.
    "--kube-api-qps=300",
    "--kube-api-burst=500",
  ];
}

export function schedulerArgs(kubeconfig: string): string[] {
  return [
    `--kubeconfig=${kubeconfig}`,
    "--leader-elect=false",
    "--secure-port=0",
    "--kube-api-qps=300",
    "--kube-api-burst=500",
  ];
}
