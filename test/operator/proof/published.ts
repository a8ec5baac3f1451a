import type { EgressPolicy } from "../../../operator/api/egresspolicy.ts";
import { childName, LABEL } from "../../../operator/api/names.ts";
import type { ConfigMap } from "../../../operator/api/objects.ts";
import { Lasting, type Report, type Rule } from "./violation.ts";
import type { World } from "./world.ts";

/** The watch of ConfigMaps may be later than the proxies of this process. */
const TOLERATED_MS = 500;

/** I2: every address that a running proxy may send from is in the published list. */
export class Published implements Rule {
  readonly #world: World;
  readonly #namespaces: readonly string[];
  readonly #report: Report;
  /** Pods with an address that the list lacks. */
  readonly #missing = new Lasting(TOLERATED_MS);

  constructor(world: World, namespaces: readonly string[], report: Report) {
    this.#world = world;
    this.#namespaces = namespaces;
    this.#report = report;
  }

  look(now: number, lagMs: number): void {
    this.#missing.begin(now, lagMs);
    const { observer, proxies } = this.#world;
    for (const proxy of proxies.values()) {
      const { namespace, name, labels } = proxy.pod.metadata;
      if (!proxy.running || !this.#namespaces.includes(namespace!)) continue;
      const owner = labels![LABEL.fleet]!;
      const policy = observer.get<EgressPolicy>("policy", `${namespace}/${owner}`);
      // The list is deleted with its policy. A new policy of the same name has a list of its own.
      if (policy === undefined || policy.metadata.deletionTimestamp !== undefined) continue;
      if (observer.policyOf(proxy.pod) !== policy.metadata.uid) continue;
      const list =
        observer.get<ConfigMap>("configMap", `${namespace}/${childName.published(owner)}`)?.data?.["ips.txt"] ?? "";
      for (const address of proxy.sends) {
        if (!this.#missing.note(`${name} ${address}`, !list.split("\n").includes(address))) continue;
        const published = list.trim().replace(/\n/g, ", ") || "nothing";
        this.#report({
          invariant: "I2",
          text: `${namespace}/${owner}: a proxy may send from ${address}; published: ${published}`,
        });
      }
    }
  }
}
