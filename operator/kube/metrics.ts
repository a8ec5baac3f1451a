import { Counter, Gauge, Histogram, type Registry } from "prom-client";

/** Seconds. Buckets of client-go's work queues without those below a microsecond. */
const QUEUE_BUCKETS = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1, 10, 100, 1000];
/** Seconds. Some of controller-runtime's buckets. */
const RECONCILE_BUCKETS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];

/**
 * Metrics of the controller runtime. Names are those of client-go and controller-runtime, for which dashboards exist.
 */
export class KubeMetrics {
  readonly requests: Counter<"code" | "method">;
  readonly queueDepth: Gauge<"name">;
  readonly queueAdds: Counter<"name">;
  readonly queueRetries: Counter<"name">;
  readonly queueSeconds: Histogram<"name">;
  readonly workSeconds: Histogram<"name">;
  readonly reconciles: Counter<"controller" | "result">;
  readonly reconcileErrors: Counter<"controller">;
  readonly reconcileSeconds: Histogram<"controller">;
  readonly activeWorkers: Gauge<"controller">;
  readonly leader: Gauge<"name">;
  readonly relists: Counter<"resource" | "cause">;
  readonly missed: Counter<"resource" | "cause">;
  readonly watchErrors: Counter<"resource" | "reason">;
  readonly handlerErrors: Counter<"resource">;
  readonly events: Counter<"result">;
  readonly #contacts = new Set<{ resource: string; seconds: () => number }>();

  constructor(registry: Registry) {
    const registers = [registry];
    const counter = <L extends string>(name: string, help: string, labelNames: L[]) =>
      new Counter({ name, help, labelNames, registers });
    const gauge = <L extends string>(name: string, help: string, labelNames: L[]) =>
      new Gauge({ name, help, labelNames, registers });
    const histogram = <L extends string>(name: string, help: string, labelNames: L[], buckets: number[]) =>
      new Histogram({ name, help, labelNames, buckets, registers });
    this.requests = counter("rest_client_requests_total", "Requests to the API server", ["code", "method"]);
    this.queueDepth = gauge("workqueue_depth", "Keys that wait in a work queue", ["name"]);
    this.queueAdds = counter("workqueue_adds_total", "Keys added to a work queue", ["name"]);
    this.queueRetries = counter("workqueue_retries_total", "Keys requeued with back-off", ["name"]);
    const waited = "Time of keys in a work queue";
    this.queueSeconds = histogram("workqueue_queue_duration_seconds", waited, ["name"], QUEUE_BUCKETS);
    const worked = "Processing time of a key";
    this.workSeconds = histogram("workqueue_work_duration_seconds", worked, ["name"], QUEUE_BUCKETS);
    const labels: ("controller" | "result")[] = ["controller", "result"];
    const results = "Reconciles by result: success, requeue, requeue_after, user_error, error";
    this.reconciles = counter("controller_runtime_reconcile_total", results, labels);
    const errors = "Failed reconciles, which are retried";
    this.reconcileErrors = counter("controller_runtime_reconcile_errors_total", errors, ["controller"]);
    const name = "controller_runtime_reconcile_time_seconds";
    this.reconcileSeconds = histogram(name, "Duration of reconciles", ["controller"], RECONCILE_BUCKETS);
    this.activeWorkers = gauge("controller_runtime_active_workers", "Workers that reconcile now", ["controller"]);
    this.leader = gauge("leader_election_master_status", "1 while this process is the leader", ["name"]);
    const causes: ("resource" | "cause")[] = ["resource", "cause"];
    const relists = "Complete lists, by cause: start, expired, audit, takeover, doubt";
    this.relists = counter("outrider_reflector_relists_total", relists, causes);
    const missed = "Changes that a later list found and no watch had delivered";
    this.missed = counter("outrider_reflector_missed_total", missed, causes);
    const watches = "Failed lists and watches";
    this.watchErrors = counter("outrider_reflector_errors_total", watches, ["resource", "reason"]);
    const handlers = "Failed change handlers";
    this.handlerErrors = counter("outrider_reflector_handler_errors_total", handlers, ["resource"]);
    this.events = counter("outrider_events_total", "Events: written, limited (too many), lost (rejected)", ["result"]);
    const contacts = this.#contacts;
    new Gauge({
      name: "outrider_reflector_last_contact_seconds",
      help: "Seconds since the API server last sent anything about a resource",
      labelNames: ["resource"],
      registers,
      collect() {
        this.reset();
        const oldest = new Map<string, number>();
        for (const { resource, seconds } of contacts) {
          oldest.set(resource, Math.max(seconds(), oldest.get(resource) ?? 0));
        }
        for (const [resource, seconds] of oldest) this.set({ resource }, seconds);
      },
    });
  }

  /**
   * Adds a watch to the gauge of the last contact, which shows the longest time of a resource. Returns a function that
   * removes it.
   */
  contact(resource: string, seconds: () => number): () => void {
    const contact = { resource, seconds };
    this.#contacts.add(contact);
    return () => this.#contacts.delete(contact);
  }
}
