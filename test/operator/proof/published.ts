import type { EgressPolicy } from "../../../operator/api/egresspolicy.ts";
import { childName, LABEL } from "../../../operator/api/names.ts";
import type { ConfigMap } from "../../../operator/api/objects.ts";
import type { Report, Rule } from "./violation.ts";
import type { World } from "./world.ts";

/** The watch of ConfigMaps may be later than the proxies of this process. */
const TOLERATED_MS = 500;

/** I2: every address that a running proxy may send from is in the published list. */
export class Published implements Rule {
  readonly #world: World;
  readonly #namespaces: readonly string[];
  readonly #report: Report;
  /** Time for which an address was missing, by pod and address. */
  readonly #missing = new Map<string, number>();
  /** Uid of the policy of a proxy. */
  readonly #policies = new WeakMap<object, string>();
  #last = Date.now();

  constructor(world: World, namespaces: readonly string[], report: Report) {
    this.#world = world;
    this.#namespaces = namespaces;
    this.#report = report;
  }

  look(now: number, lagMs: number): void {
    const elapsed = Math.max(0, now - this.#last - lagMs);
    this.#last = now;
    const { observer, proxies } = this.#world;
    for (const proxy of proxies.values()) {
      const { namespace, name, labels } = proxy.pod.metadata;
      if (!proxy.running || !this.#namespaces.includes(namespace!)) continue;
      const owner = labels![LABEL.fleet]!;
      const policy = observer.get<EgressPolicy>("policy", `${namespace}/${owner}`);
      const uid = this.#policies.get(proxy) ?? policy?.metadata.uid;
      if (uid !== undefined) this.#policies.set(proxy, uid);
      // The list goes with its policy. A new policy of the same name has a list of its own.
      if (policy === undefined || policy.metadata.uid !== uid || policy.metadata.deletionTimestamp !== undefined)
        continue;
      const list =
        observer.get<ConfigMap>("configMap", `${namespace}/${childName.published(owner)}`)?.data?.["ips.txt"] ?? "";
      for (const address of proxy.sends) {
        const key = `${name} ${address}`;
        const missing = list.split("\n").includes(address) ? 0 : (this.#missing.get(key) ?? 0) + elapsed;
        this.#missing.set(key, missing);
        if (missing <= TOLERATED_MS) continue;
        const published = list.trim().replace(/\n/g, ", ") || "nothing";
        this.#report({
          invariant: "I2",
          text: `${namespace}/${owner}: a proxy may send from ${address}; published: ${published}`,
        });
      }
    }
  }
}
