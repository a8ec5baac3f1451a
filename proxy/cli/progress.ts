/** Progress of long work on a terminal: what is done now, how far it is, and how long it will still take. */

/** A part of the work. */
export interface Part {
  name: string;
  /** Expected time, on a machine with two cores. Absent in one part: no estimate for all of them. */
  seconds?: number;
}

/** The state of the work. */
export interface State {
  /** Index of the current part. */
  at: number;
  /** The share of the current part that is done; more than 1: it takes longer than expected. */
  share: number;
  /** Time since the start of the first part. */
  elapsedSeconds: number;
}

/** Columns of a terminal that does not know its width. */
const COLUMNS = 80;
const REDRAW_MS = 1000;
/** Limit of redrawing the same part: reports can come thousands of times in a second. */
const MIN_REDRAW_MS = 100;
/** From this share on, the measured pace replaces the expected one. */
const MEASURED_SHARE = 0.1;
/** Carriage return, and ECMA-48 "erase in line" from the cursor to the end. */
const ERASE = "\r\x1b[K";
const SIGNALS = ["SIGINT", "SIGTERM"] as const;

const sum = (parts: readonly Part[]): number => parts.reduce((all, { seconds = 0 }) => all + seconds, 0);

/** A time, rounded for people. */
function roughly(seconds: number): string {
  return seconds < 90 ? `${Math.max(1, Math.round(seconds))} s` : `${Math.round(seconds / 60)} min`;
}

/** Time per expected second after `doneSeconds` of the expected time. */
function pace(parts: readonly Part[], doneSeconds: number, elapsedSeconds: number): number {
  return doneSeconds >= sum(parts) * MEASURED_SHARE ? elapsedSeconds / doneSeconds : 1;
}

/** The share of a part that reports none, by its expected time and the pace of the parts before it. */
export function shareByTime(parts: readonly Part[], at: number, elapsedSeconds: number, partSeconds: number): number {
  const before = sum(parts.slice(0, at));
  return partSeconds / (parts[at]!.seconds! * (before > 0 ? pace(parts, before, elapsedSeconds - partSeconds) : 1));
}

/** The text of the line. Without expected times, it has the number of the part and the time so far. */
export function progressLine(parts: readonly Part[], { at, share, elapsedSeconds }: State): string {
  const { name, seconds } = parts[at]!;
  const what = parts.length === 1 ? name : `${name} (${at + 1} of ${parts.length})`;
  if (seconds === undefined || parts.some((part) => part.seconds === undefined)) {
    return `${what}, ${share > 0 ? `${Math.round(Math.min(share, 1) * 100)} % done` : roughly(elapsedSeconds)}`;
  }
  const total = sum(parts);
  const doneSeconds = sum(parts.slice(0, at)) + seconds * Math.min(share, 1);
  const left = (total - doneSeconds) * pace(parts, doneSeconds, elapsedSeconds);
  const rest = share > 1 ? "longer than expected" : `about ${roughly(left)} left`;
  return `${what}, ${Math.round((doneSeconds / total) * 100)} % done, ${rest}`;
}

/** The line of progress of one work. */
export interface Progress {
  /** Shows the start of a part, or that a share of it is done. Without shares, the time of the part decides. */
  show(name: string, share?: number): void;
  /** Removes the line before other output. The next second or the next `show` draws it again. */
  clear(): void;
  /** Removes the line for good. */
  end(): void;
}

/** Whether a line can be redrawn there. There are no colours, so `NO_COLOR` changes nothing. */
const isTerminal = (stream: NodeJS.WriteStream): boolean => stream.isTTY && process.env.TERM !== "dumb";

/**
 * Shows progress in one line on stderr if it is a terminal, else nothing. The line is removed at `end`, at the exit of the
 * process after an error, and by signals that end it.
 * @param afterMs shorter work shows nothing
 */
export function startProgress(
  parts: readonly Part[],
  { stream = process.stderr, afterMs = 0 }: { stream?: NodeJS.WriteStream; afterMs?: number } = {},
): Progress {
  if (!isTerminal(stream)) return { show: () => {}, clear: () => {}, end: () => {} };
  const began = performance.now();
  let at = -1;
  let reported: number | undefined;
  let partBegan = began;
  let drawn = Number.NEGATIVE_INFINITY;
  let isVisible = false;
  const clear = () => {
    if (isVisible) stream.write(ERASE);
    isVisible = false;
  };
  const draw = () => {
    const now = performance.now();
    if (at < 0 || now - began < afterMs) return;
    const elapsedSeconds = (now - began) / 1000;
    const timed = parts[at]!.seconds !== undefined;
    const share = reported ?? (timed ? shareByTime(parts, at, elapsedSeconds, (now - partBegan) / 1000) : 0);
    const text = progressLine(parts, { at, share, elapsedSeconds });
    stream.write(`${ERASE}${text.slice(0, (stream.columns || COLUMNS) - 1)}`);
    isVisible = true;
    drawn = now;
  };
  const timer = setInterval(draw, REDRAW_MS);
  timer.unref();
  const onSignal = (signal: NodeJS.Signals) => {
    clear();
    // A listener takes away the default action. Without others, this signal ends the process as if there were none.
    if (process.listenerCount(signal) > 1) return;
    end();
    process.kill(process.pid, signal);
  };
  const end = () => {
    clear();
    clearInterval(timer);
    at = -1;
    process.off("exit", end);
    for (const signal of SIGNALS) process.off(signal, onSignal);
  };
  process.on("exit", end);
  // Before the other listeners, which `once` removes when it calls them.
  for (const signal of SIGNALS) process.prependListener(signal, onSignal);
  return {
    show: (name, share) => {
      const next = parts.findIndex((part) => part.name === name);
      const isNew = next !== at;
      const now = performance.now();
      if (isNew) partBegan = now;
      at = next;
      reported = share;
      if (isNew || now - drawn >= MIN_REDRAW_MS) draw();
    },
    clear,
    end,
  };
}
