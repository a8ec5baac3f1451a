import { Counter, Gauge, Histogram, type Registry } from "prom-client";

/** Seconds. An admission takes about a millisecond of CPU, or one call to the API server. */
const BUCKETS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5];

/** Results of reviews. */
const RESULTS = ["injected", "unchanged", "refused", "dry-run", "other", "invalid", "failed"] as const;
export type Result = (typeof RESULTS)[number];

/** Metrics of the webhook. */
export class WebhookMetrics {
  readonly #reviews: Counter<"result">;
  readonly #seconds: Histogram;
  readonly #repairs: Counter;
  #end: number | undefined;

  constructor(registry: Registry) {
    const registers = [registry];
    this.#reviews = new Counter({
      name: "outrider_webhook_reviews_total",
      help: `Admission reviews, by result (${RESULTS.join(", ")}).`,
      labelNames: ["result"],
      registers,
    });
    for (const result of RESULTS) this.#reviews.inc({ result }, 0);
    this.#seconds = new Histogram({
      name: "outrider_webhook_review_seconds",
      help: "Time from the complete request to the answer.",
      buckets: BUCKETS,
      registers,
    });
    this.#repairs = new Counter({
      name: "outrider_webhook_ca_bundle_writes_total",
      help: "Writes of caBundle in the webhook configuration.",
      registers,
    });
    const end = () => this.#end;
    new Gauge({
      name: "outrider_webhook_certificate_end_seconds",
      help: "Expiry of the served certificate, in seconds since 1970.",
      registers,
      collect() {
        const value = end();
        if (value !== undefined) this.set(value / 1000);
      },
    });
  }

  review(result: Result, seconds: number): void {
    this.#reviews.inc({ result });
    this.#seconds.observe(seconds);
  }

  bundleWritten(): void {
    this.#repairs.inc();
  }

  /** Milliseconds since 1970. */
  certificateEnds(at: number): void {
    this.#end = at;
  }
}
