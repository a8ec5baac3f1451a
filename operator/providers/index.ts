import type { EgressPolicySpec } from "../api/egresspolicy.ts";
import { external } from "./external.ts";
import { kubeVIP } from "./kubevip.ts";
import { nodeAddress } from "./nodeaddress.ts";
import { podIP } from "./podip.ts";
import type { Provider } from "./provider.ts";

/** Providers of this version, by the name in `spec.nat.provider`. */
const PROVIDERS: ReadonlyMap<string, Provider> = new Map(
  [external, podIP, nodeAddress, kubeVIP].map((provider) => [provider.name, provider]),
);

export const PROVIDER_NAMES = [...PROVIDERS.keys()];

/** Provider of a spec; undefined if this version does not support it. */
export function providerOf(spec: EgressPolicySpec): Provider | undefined {
  return PROVIDERS.get(spec.nat?.provider ?? "External");
}
