import type { Failure } from "../outcome/refusals.ts";
import type { Route, Routes } from "./route.ts";
import type { Sources } from "./source-address.ts";
import type { Verifier } from "./verifier.ts";

/** Without source addresses the machine chooses: one path per family, for every host. */
const MACHINE: Routes = { 4: { key: "ipv4", family: 4 }, 6: { key: "ipv6", family: 6 } };

/** Decides whether a request may leave now, and from which address: only from one that is assigned and proven. */
export class Gate {
  readonly #sources: Sources;
  readonly #verifier: Verifier;

  constructor(sources: Sources, verifier: Verifier) {
    this.#sources = sources;
    this.#verifier = verifier;
  }

  routesFor(host: string): Routes {
    if (this.#sources.list.length === 0) return MACHINE;
    const route = (family: 4 | 6): Route | null => {
      const source = this.#sources.pick(host, family);
      return source === null ? null : { key: source.address, family, source };
    };
    return { 4: route(4), 6: route(6) };
  }

  /** Null: open. `dialled`: start of the connection that is to be used (monotonic ms). */
  refusal(route: Route | null, dialled?: number): Failure | null {
    if (route === null) return { code: "unverified", reason: "there is no source address of this family" };
    if (route.source !== undefined && !route.source.assigned) {
      return { code: "unverified", reason: `source address ${route.key} is not assigned to this machine` };
    }
    if (dialled !== undefined && this.#verifier.wrongSince(route.key, dialled)) {
      return { code: "unverified", reason: `the connection began before a wrong source address was seen; try again` };
    }
    return this.#verifier.open(route.key) ? null : { code: "unverified", reason: this.#verifier.reason(route.key) };
  }

  /** The check before any DNS query: null when at least one path is open. */
  entry(routes: Routes): Failure | null {
    const four = this.refusal(routes[4]);
    if (four === null) return null;
    const six = this.refusal(routes[6]);
    if (six === null) return null;
    return routes[4] === null ? six : four;
  }

  /** Why the gate is not ready: a source is not assigned or a path is not proven. Null: ready. */
  unready(): string | null {
    const lost = this.#sources.list.find((source) => !source.assigned);
    if (lost !== undefined) return `source address ${lost.address} is not assigned to this machine`;
    const unproven = this.#verifier.status().find((proof) => !this.#verifier.open(proof.way));
    return unproven === undefined ? null : this.#verifier.reason(unproven.way);
  }
}
