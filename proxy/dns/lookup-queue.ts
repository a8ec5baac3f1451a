/**
 * Second-level labels under which country registries sell names (`co.uk`, `com.br`): a zone there has three labels. The
 * list is short on purpose. A missing suffix puts its names into one zone, which only slows them down. A wrong label
 * lets its owner create as many zones as names.
 */
const SECOND_LEVEL: ReadonlySet<string> = new Set(
  "ac co com edu go gob gouv gov gub gv ltd mil ne net nom or org plc sch".split(" "),
);

/**
 * The zone of a name, derived from its text: its last two labels, or three below labels such as `co.uk`. Names of one
 * owner are thus in one zone.
 */
export function zoneOf(host: string): string {
  const labels = host.split(".");
  const [second, top] = labels.slice(-2);
  const country = top !== undefined && top.length === 2;
  return labels.slice(country && SECOND_LEVEL.has(second!) ? -3 : -2).join(".");
}

/** Divisor of the free places for one group: a quarter of all places when it is the only group. */
const FREE_SHARE = 3;

function change(counts: Map<string, number>, key: string, by: 1 | -1): void {
  const count = (counts.get(key) ?? 0) + by;
  if (count === 0) counts.delete(key);
  else counts.set(key, count);
}

/**
 * Places that clients and zones share. A client, and a zone, may use a third of the free places; a zone within one
 * client may use a third of that client's rest. The first greedy group thus gets a quarter, the next one a quarter of
 * the rest. A group above its share, because others came later, gets no place that becomes free.
 */
class Shares {
  readonly #limit: number;
  #total = 0;
  readonly #clients = new Map<string, number>();
  readonly #zones = new Map<string, number>();
  readonly #pairs = new Map<string, number>();

  constructor(limit: number) {
    this.#limit = limit;
  }

  fitsClient(client: string): boolean {
    return (this.#clients.get(client) ?? 0) < (this.#limit - this.#total) / FREE_SHARE;
  }

  fits(client: string, zone: string): boolean {
    const share = (this.#limit - this.#total) / FREE_SHARE;
    const mine = this.#clients.get(client) ?? 0;
    if (mine >= share || (this.#zones.get(zone) ?? 0) >= share) return false;
    return (this.#pairs.get(`${client} ${zone}`) ?? 0) < (share - mine) / FREE_SHARE;
  }

  change(client: string, zone: string, by: 1 | -1): void {
    this.#total += by;
    change(this.#clients, client, by);
    change(this.#zones, zone, by);
    change(this.#pairs, `${client} ${zone}`, by);
  }
}

/** A job that waits or runs. It may wait for several clients, and runs for one. */
export interface Job {
  readonly zone: string;
  /** Clients that wait for it. */
  readonly waitsFor: Set<string>;
  /** The client that it runs for; null while it waits. */
  runsFor: string | null;
}

/**
 * Decides which lookups run and which wait: fair by client and by zone, with a limit for both. Clients take turns, and
 * so do the zones of a client.
 */
export class LookupQueue<J extends Job> {
  readonly #running: Shares;
  readonly #waiting: Shares;
  /** Client, zone, jobs in order of arrival. */
  readonly #queues = new Map<string, Map<string, Set<J>>>();

  /** `slots`: jobs that run at once. `places`: jobs that wait. */
  constructor(slots: number, places: number) {
    this.#running = new Shares(slots);
    this.#waiting = new Shares(places);
  }

  /**
   * Requests a job, which does not run yet, for a client. `start`: it runs from now on and no longer waits. `full`: the
   * queue has no place left for this client.
   */
  enter(job: J, client: string): "start" | "wait" | "full" {
    if (job.waitsFor.has(client)) return "wait";
    if (this.#running.fits(client, job.zone)) {
      this.#start(job, client);
      return "start";
    }
    if (!this.#waiting.fits(client, job.zone)) return "full";
    let zones = this.#queues.get(client);
    if (zones === undefined) {
      zones = new Map();
      this.#queues.set(client, zones);
    }
    const jobs = zones.get(job.zone);
    if (jobs === undefined) zones.set(job.zone, new Set([job]));
    else jobs.add(job);
    job.waitsFor.add(client);
    this.#waiting.change(client, job.zone, 1);
    return "wait";
  }

  /** Removes a job that runs or waits. */
  leave(job: J): void {
    if (job.runsFor !== null) this.#running.change(job.runsFor, job.zone, -1);
    job.runsFor = null;
    for (const client of job.waitsFor) {
      const zones = this.#queues.get(client)!;
      const jobs = zones.get(job.zone)!;
      jobs.delete(job);
      if (jobs.size === 0) zones.delete(job.zone);
      if (zones.size === 0) this.#queues.delete(client);
      this.#waiting.change(client, job.zone, -1);
    }
    job.waitsFor.clear();
  }

  /** The next job that may run, already counted as running; null when none may run. */
  next(): J | null {
    for (const [client, zones] of this.#queues) {
      if (!this.#running.fitsClient(client)) continue;
      for (const [zone, jobs] of zones) {
        if (!this.#running.fits(client, zone)) continue;
        const job: J = jobs.values().next().value!;
        // Both move to the end, so that the others come first next time.
        this.#queues.delete(client);
        this.#queues.set(client, zones);
        zones.delete(zone);
        zones.set(zone, jobs);
        this.#start(job, client);
        return job;
      }
    }
    return null;
  }

  #start(job: J, client: string): void {
    this.leave(job);
    job.runsFor = client;
    this.#running.change(client, job.zone, 1);
  }
}
