/** Counts of one proxy from the text of its /metrics. Pure. */
export interface ProxyCounts {
  tunnels: number;
  connections: number;
  /** Finished tunnels and requests since the start. */
  requests: number;
  /** Refused ones by code. */
  refusals: Map<string, number>;
  bytes: number;
}

const LINE = /^(outrider_proxy_[a-z_]+)(?:\{(.*)\})? ([0-9.eE+-]+)$/;
/** Sticky: text that is no label ends the labels. A search from each character would take hours for a long line. */
const LABEL = /,?([a-z_]+)="((?:[^"\\]|\\.)*)"/gy;
/** Refusal codes that are kept, of some 30 that a proxy has. */
const MAX_CODES = 100;
/** Code of the refusals beyond that limit. */
const OTHER_CODES = "others";

function labelsOf(text = ""): ReadonlyMap<string, string> {
  return new Map([...text.matchAll(LABEL)].map(([, name, value]) => [name!, value!]));
}

/** Reads the counts. @throws Error if it is not the text of a proxy */
export function countsOf(text: string): ProxyCounts {
  const counts: ProxyCounts = { tunnels: 0, connections: 0, requests: 0, refusals: new Map(), bytes: 0 };
  let isProxy = false;
  for (const line of text.split("\n")) {
    const [, name, labels, number] = LINE.exec(line) ?? [];
    if (name === undefined) continue;
    const value = Number(number);
    if (name === "outrider_proxy_active_tunnels") {
      counts.tunnels = value;
      isProxy = true;
    }
    if (name === "outrider_proxy_connections") counts.connections = value;
    if (name === "outrider_proxy_bytes_total") counts.bytes += value;
    if (name !== "outrider_proxy_requests_total") continue;
    counts.requests += value;
    const found = labelsOf(labels);
    if (found.get("verdict") !== "deny") continue;
    const known = found.get("code") ?? "";
    const code = counts.refusals.has(known) || counts.refusals.size < MAX_CODES ? known : OTHER_CODES;
    counts.refusals.set(code, (counts.refusals.get(code) ?? 0) + value);
  }
  if (!isProxy) throw new Error("/metrics has no outrider_proxy_active_tunnels; the proxy may have another version");
  return counts;
}

/** Events a second between two readings. */
export interface Rates {
  requests: number;
  refusals: number;
  bytes: number;
}

/** Rates a second. A proxy that restarted between both moments counts from zero. */
export function ratesOf(before: ProxyCounts, after: ProxyCounts, seconds: number): Rates {
  const sum = ({ refusals }: ProxyCounts) => [...refusals.values()].reduce((total, count) => total + count, 0);
  const rate = (old: number, now: number) => (now >= old ? now - old : now) / seconds;
  return {
    requests: rate(before.requests, after.requests),
    refusals: rate(sum(before), sum(after)),
    bytes: rate(before.bytes, after.bytes),
  };
}
