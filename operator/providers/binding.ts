import type { ProxyFacts } from "../fleet/proxy-status.ts";
import { slotId } from "../fleet/slots.ts";
import type { Assignment } from "./provider.ts";

/** Reports an address as assigned when the proxy of its own slot has bound it. */
export function assignedByBinding(address: string, source: string, proxies: readonly ProxyFacts[]): Assignment {
  const id = slotId(address);
  const holder = proxies.find(
    (proxy) =>
      proxy.slot === id &&
      !proxy.terminating &&
      proxy.status?.sources.some((bound) => bound.address === source && bound.assigned),
  );
  if (holder === undefined) return { assigned: false };
  return { assigned: true, ...(holder.node === undefined ? {} : { node: holder.node }) };
}
