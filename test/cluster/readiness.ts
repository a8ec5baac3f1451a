import type { FleetPod } from "./container.ts";

const PROBE_MS = 2000;

/** Runs a pod's readiness probe at the pod's own address. */
export async function isReady(pod: FleetPod): Promise<boolean> {
  const container = pod.spec.containers[0] as Probed;
  const probe = container.readinessProbe?.httpGet;
  if (probe === undefined) return true;
  const named = container.ports?.find(({ name }) => name === probe.port)?.containerPort;
  const port = typeof probe.port === "number" ? probe.port : named;
  if (port === undefined) throw new Error(`${pod.metadata.name}: no port is called ${probe.port}`);
  const url = `http://${probe.host ?? pod.status!.podIP}:${port}${probe.path ?? "/"}`;
  try {
    const response = await fetch(url, { signal: AbortSignal.timeout(PROBE_MS) });
    await response.arrayBuffer();
    return response.status >= 200 && response.status < 400;
  } catch {
    // Any error means that it is not ready.
    return false;
  }
}

interface Probed {
  readinessProbe?: { httpGet?: { path?: string; port: number | string; host?: string } };
  ports?: { name?: string; containerPort: number }[];
}

/** The patch of a pod's status with this readiness; undefined when it has it already. @param now RFC 3339 */
export function withReady(pod: FleetPod, ready: boolean, now: string): object | undefined {
  const wanted = ready ? "True" : "False";
  const current = pod.status?.conditions?.find(({ type }) => type === "Ready")?.status;
  if (current === wanted) return undefined;
  const lastTransitionTime = now.replace(/\.\d+Z$/, "Z");
  const conditions = ["Ready", "ContainersReady"].map((type) => ({ type, status: wanted, lastTransitionTime }));
  const container = pod.spec.containers[0]!;
  const containerStatuses = (pod.status as { containerStatuses?: { name: string }[] }).containerStatuses ?? [];
  return {
    conditions,
    containerStatuses: containerStatuses.map((one) => (one.name === container.name ? { ...one, ready } : one)),
  };
}
