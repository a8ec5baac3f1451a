import { documentFault } from "./documents.ts";
import { Endpoints } from "./endpoints.ts";
import { Deletions } from "./no-deletion.ts";
import { Owners } from "./owners.ts";
import { Published } from "./published.ts";
import type { Report, Rule, Violation } from "./violation.ts";
import type { World } from "./world.ts";

const LOOK_MS = 50;

/** Checks the live invariants I1 to I5 for some namespaces, from its start until it is stopped. */
export class Invariants {
  readonly #violations = new Map<string, Violation>();
  readonly #timer: NodeJS.Timeout;
  readonly #deletions: Deletions;
  readonly #unsubscribe: () => void;
  #looked = Date.now();

  constructor(world: World, namespaces: readonly string[]) {
    const report: Report = (violation) => {
      this.#violations.set(`${violation.invariant} ${violation.text}`, violation);
    };
    const rules: Rule[] = [Endpoints, Published, Owners].map((rule) => new rule(world, namespaces, report));
    this.#deletions = new Deletions(world, report);
    const listener: Parameters<typeof world.observer.listeners.add>[0] = (change) => {
      if (!namespaces.includes(change.object.metadata.namespace!)) return;
      this.#deletions.see(change);
      const fault = change.kind === "configMap" && change.type !== "DELETED" ? documentFault(change.object) : undefined;
      if (fault !== undefined) report({ invariant: "I3", text: fault });
    };
    world.observer.listeners.add(listener);
    this.#unsubscribe = () => world.observer.listeners.delete(listener);
    this.#timer = setInterval(() => {
      const now = Date.now();
      const lagMs = Math.max(0, now - this.#looked - LOOK_MS);
      this.#looked = now;
      for (const rule of rules) rule.look(now, lagMs);
    }, LOOK_MS);
  }

  /** Violations since the last call. */
  take(): Violation[] {
    this.#deletions.judge();
    const found = [...this.#violations.values()];
    this.#violations.clear();
    return found;
  }

  /** Ends the checks. */
  stop(): void {
    clearInterval(this.#timer);
    this.#unsubscribe();
    this.#deletions.stop();
  }
}
