import { Counter, Gauge, Histogram, type Registry } from "prom-client";

/** Seconds: client-go's buckets of its work queues, 10 ns to 1000 s, without those below a microsecond. */
const QUEUE_BUCKETS = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1, 10, 100, 1000];
/** Seconds: controller-runtime's buckets, thinned. */
const RECONCILE_BUCKETS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];

/** Every metric of the runtime. Names are those of client-go and controller-runtime, for which dashboards exist. */
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
    this.queueAdds = counter("workqueue_adds_total", "Keys put into a work queue", ["name"]);
    this.queueRetries = counter("workqueue_retries_total", "Keys put back with back-off", ["name"]);
    const waited = "How long keys waited in a work queue";
    this.queueSeconds = histogram("workqueue_queue_duration_seconds", waited, ["name"], QUEUE_BUCKETS);
    const worked = "How long a key was worked on";
    this.workSeconds = histogram("workqueue_work_duration_seconds", worked, ["name"], QUEUE_BUCKETS);
    const labels: ("controller" | "result")[] = ["controller", "result"];
    const results = "Reconciles by result: success, requeue, requeue_after, user_error, error";
    this.reconciles = counter("controller_runtime_reconcile_total", results, labels);
    const errors = "Reconciles that failed and are tried again";
    this.reconcileErrors = counter("controller_runtime_reconcile_errors_total", errors, ["controller"]);
    const name = "controller_runtime_reconcile_time_seconds";
    this.reconcileSeconds = histogram(name, "Duration of reconciles", ["controller"], RECONCILE_BUCKETS);
    this.activeWorkers = gauge("controller_runtime_active_workers", "Workers in a reconcile", ["controller"]);
    this.leader = gauge("leader_election_master_status", "1 while this program leads", ["name"]);
    const causes: ("resource" | "cause")[] = ["resource", "cause"];
    const relists = "Whole lists, by cause: start, expired, audit";
    this.relists = counter("outrider_reflector_relists_total", relists, causes);
    const missed = "Changes that a list after the first one found and no watch had told";
    this.missed = counter("outrider_reflector_missed_total", missed, causes);
    const watches = "Lists and watches that failed";
    this.watchErrors = counter("outrider_reflector_errors_total", watches, ["resource", "reason"]);
    const handlers = "Handlers of changes that threw";
    this.handlerErrors = counter("outrider_reflector_handler_errors_total", handlers, ["resource"]);
    this.events = counter("outrider_events_total", "Events: written, limited (too many), lost (refused)", ["result"]);
    const contacts = this.#contacts;
    new Gauge({
      name: "outrider_reflector_last_contact_seconds",
      help: "Seconds since the API server last said anything about a resource",
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

  /** Shows how long ago a resource was heard of, of several watches the longest; the returned function takes it back. */
  contact(resource: string, seconds: () => number): () => void {
    const contact = { resource, seconds };
    this.#contacts.add(contact);
    return () => this.#contacts.delete(contact);
  }
}
