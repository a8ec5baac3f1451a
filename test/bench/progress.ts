/** Progress of a long run on a terminal: what is measured, how far the run is, and how long it will still take. */

/** A part of a run with its expected time. Only the proportions matter. */
export interface Part {
  name: string;
  seconds: number;
}

/** Width of a terminal that does not know its own. */
const COLUMNS = 80;

/** A time as people say it. */
function roughly(seconds: number): string {
  return seconds < 90 ? `${Math.max(1, Math.round(seconds))} s` : `${Math.round(seconds / 60)} min`;
}

/** The line during part `at`, of which this share is done. The rest takes as long as the parts before it suggest. */
export function progressLine(parts: readonly Part[], at: number, share: number, elapsedSeconds: number): string {
  const sum = (list: readonly Part[]) => list.reduce((all, part) => all + part.seconds, 0);
  const done = (sum(parts.slice(0, at)) + parts[at]!.seconds * share) / sum(parts);
  const left = done > 0 ? `, about ${roughly((elapsedSeconds * (1 - done)) / done)} left` : "";
  return `${parts[at]!.name} (${at + 1} of ${parts.length}), ${Math.round(done * 100)} % done${left}`;
}

export interface Progress {
  /** Shows the start of a part, or that a share of it is done. */
  show(name: string, share?: number): void;
  /** Removes the line, before other output. */
  clear(): void;
}

/** Shows progress on stderr if it is a terminal. */
export function startProgress(parts: readonly Part[], stream: NodeJS.WriteStream = process.stderr): Progress {
  if (!stream.isTTY) return { show: () => {}, clear: () => {} };
  const began = performance.now();
  const clear = () => void stream.write("\r\x1b[K");
  return {
    show: (name, share = 0) => {
      const at = parts.findIndex((part) => part.name === name);
      clear();
      stream.write(
        progressLine(parts, at, share, (performance.now() - began) / 1000).slice(0, (stream.columns || COLUMNS) - 1),
      );
    },
    clear,
  };
}
