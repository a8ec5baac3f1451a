/** Counts of finished tunnels and requests since the start of the process. */
export interface Totals {
  allowed: number;
  denied: number;
  /** By code, those without one (`ok`) excluded. */
  codes: Readonly<Record<string, number>>;
  bytesUp: number;
  bytesDown: number;
}

/** Counts of one minute. */
export interface Minute {
  /** Its start, RFC 3339. The first minute of a process and the current one are shorter than 60 s. */
  at: string;
  allowed: number;
  denied: number;
  codes: Record<string, number>;
}

/** Number of minutes that are kept, the current one included. Codes are a closed list, so this bounds the memory. */
const MINUTES = 15;
const MINUTE_MS = 60_000;

function difference(at: number, from: Totals, to: Totals): Minute {
  const codes = Object.entries(to.codes).map(([code, count]) => [code, count - (from.codes[code] ?? 0)] as const);
  return {
    at: new Date(at).toISOString(),
    allowed: to.allowed - from.allowed,
    denied: to.denied - from.denied,
    codes: Object.fromEntries(codes.filter(([, count]) => count > 0)),
  };
}

/**
 * Counts by minute. It reads the totals at the start of each minute and subtracts them, so that a request costs nothing
 * more.
 */
export class Minutes {
  readonly #totals: () => Totals;
  readonly #marks: { at: number; totals: Totals }[] = [];
  #timer: NodeJS.Timeout | undefined;

  /** `at`: milliseconds since the epoch. */
  constructor(totals: () => Totals, at = Date.now()) {
    this.#totals = totals;
    this.mark(at);
  }

  /** Begins a minute at a time in milliseconds since the epoch. */
  mark(at: number): void {
    this.#marks.push({ at, totals: this.#totals() });
    if (this.#marks.length > MINUTES) this.#marks.shift();
  }

  /** Begins a minute whenever the clock does, until {@link stop}. */
  start(): void {
    // A timer may fire a little early.
    const toNext = MINUTE_MS - ((Date.now() + 100) % MINUTE_MS) + 100;
    this.#timer = setTimeout(() => {
      this.mark(Math.round(Date.now() / MINUTE_MS) * MINUTE_MS);
      this.start();
    }, toNext);
    this.#timer.unref();
  }

  stop(): void {
    clearTimeout(this.#timer);
  }

  /** The last minutes, the oldest first. */
  list(): Minute[] {
    const now = this.#totals();
    return this.#marks.map(({ at, totals }, i) => difference(at, totals, this.#marks[i + 1]?.totals ?? now));
  }
}
