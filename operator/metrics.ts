import { Counter, collectDefaultMetrics, Gauge, Registry } from "prom-client";
import type { EgressPolicy } from "./api/egresspolicy.ts";
import { CONDITIONS } from "./api/names.ts";
import { KubeMetrics } from "./kube/metrics.ts";

/** Metrics of the operator. No label contains a host of a policy. */
export class OperatorMetrics {
  readonly registry = new Registry();
  readonly kube: KubeMetrics;
  readonly #scrapes: Counter<"result">;

  /** `policies` returns the current policies, `upgrades` the number of fleets by the state of their upgrade. */
  constructor(
    policies: () => readonly EgressPolicy[],
    upgrades: () => Readonly<Record<string, number>>,
    isLeader: () => boolean,
  ) {
    const registers = [this.registry];
    // The default, 10 ms, wakes an idle process 100 times a second.
    collectDefaultMetrics({ register: this.registry, eventLoopMonitoringPrecision: 100 });
    this.kube = new KubeMetrics(this.registry);
    this.#scrapes = new Counter({
      name: "outrider_operator_scrapes_total",
      help: "Polls of the /status of proxies, by result (ok, failed).",
      labelNames: ["result"],
      registers,
    });
    for (const result of ["ok", "failed"]) this.#scrapes.inc({ result }, 0);
    new Gauge({
      name: "outrider_operator_policy_condition",
      help: "1 for the current status (True, False, Unknown) and reason of each condition of a policy; only on the leader.",
      labelNames: ["namespace", "policy", "type", "status", "reason"],
      registers,
      collect() {
        this.reset();
        if (!isLeader()) return;
        for (const { metadata, status } of policies()) {
          for (const type of CONDITIONS) {
            const found = status?.conditions?.find((condition) => condition.type === type);
            const labels = { namespace: metadata.namespace!, policy: metadata.name, type };
            this.set({ ...labels, status: found?.status ?? "Unknown", reason: found?.reason ?? "" }, 1);
          }
        }
      },
    });
    new Gauge({
      name: "outrider_operator_upgrade_fleets",
      help: "Fleets by state of their upgrade to a new operator or image: waiting, progressing, failed (not ready within the progress deadline, also counted as progressing); only on the leader.",
      labelNames: ["state"],
      registers,
      collect() {
        this.reset();
        if (!isLeader()) return;
        for (const [state, count] of Object.entries(upgrades())) this.set({ state }, count);
      },
    });
    new Gauge({
      name: "outrider_operator_policies",
      help: "Number of policies that this operator watches.",
      registers,
      collect() {
        this.set(policies().length);
      },
    });
  }

  scraped(ok: boolean): void {
    this.#scrapes.inc({ result: ok ? "ok" : "failed" });
  }
}
