import type { EgressPolicySpec } from "../../api/egresspolicy.ts";
import { childName } from "../../api/names.ts";
import { isRolledOut } from "../../api/objects.ts";
import { isOpen, type ProxyFacts } from "../../fleet/proxy-status.ts";
import type { Facts } from "../facts/facts.ts";
import { matches, type Selector } from "../objects/service.ts";

/**
 * Which proxies of a policy get requests now. A proxy that may serve is protected from disturbances. Only a proxy that
 * surely serves lets others be disturbed.
 */
export interface Serving {
  /** Selector of the stored client Service; undefined if there is none. Every proxy counts as selected then. */
  selector: Selector | undefined;
  /** Proxies that may serve: ready, selected by the client Service, and not known to be closed. */
  inService: readonly ProxyFacts[];
  /**
   * Proxies that surely serve: in service, and `/status` says that the gate is open. If no ready proxy of the fleet
   * answers, those that failed to answer count, since Kubernetes says that they are ready.
   */
  surely: readonly ProxyFacts[];
  /** Ready proxies that were not polled yet. The operator started, or they did. */
  unpolled: readonly ProxyFacts[];
}

/** Whether a proxy is not known to be closed. */
export const mayBeOpen = ({ status }: ProxyFacts, spec: EgressPolicySpec): boolean =>
  status === undefined || isOpen(status, spec);

/** Pure. */
export function servingOf(
  { policy, children, proxies }: Pick<Facts, "policy" | "children" | "proxies">,
  spec: EgressPolicySpec,
): Serving {
  const selector = children.services.get(childName.fleet(policy.metadata.name))?.spec?.selector;
  const ready = proxies.filter((proxy) => proxy.ready);
  const inService = ready.filter(
    (proxy) => mayBeOpen(proxy, spec) && (selector === undefined || matches(selector, proxy.pod.metadata.labels)),
  );
  const anyAnswers = ready.some(({ status }) => status !== undefined);
  return {
    selector,
    inService,
    surely: inService.filter(({ polled, status }) => polled && (status !== undefined || !anyAnswers)),
    unpolled: ready.filter(({ polled }) => !polled),
  };
}

/** Whether a slot, or a shared fleet, surely serves, and all its pods have the newest template. */
export function isUp(
  { children }: Pick<Facts, "children">,
  { surely }: Pick<Serving, "surely">,
  deployment: string,
  slot: string,
): boolean {
  const actual = children.deployments.get(deployment);
  return actual !== undefined && isRolledOut(actual) && surely.some((proxy) => proxy.slot === slot);
}
