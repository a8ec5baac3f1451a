import type { EgressPolicy } from "../api/egresspolicy.ts";
import { external } from "./external.ts";
import { kubeVIP } from "./kubevip.ts";
import { nodeAddress } from "./nodeaddress.ts";
import { podIP } from "./podip.ts";
import type { Provider } from "./provider.ts";

/** The providers of this version, by the name in `spec.nat.provider`. */
const PROVIDERS: ReadonlyMap<string, Provider> = new Map(
  [external, podIP, nodeAddress, kubeVIP].map((provider) => [provider.name, provider]),
);

/** Their names, for messages. */
export const PROVIDER_NAMES = [...PROVIDERS.keys()];

/** The provider of a spec; undefined for one that this version does not have. */
export function providerOf(spec: EgressPolicy["spec"]): Provider | undefined {
  return PROVIDERS.get(spec.nat?.provider ?? "External");
}
