/**
 * Limit of connections with costly input that read again in one turn of the event loop; a read of 64 KiB takes about 1
 * ms.
 */
const READS_PER_TURN = 4;

const waiting: (() => void)[] = [];

function run(): void {
  for (const resume of waiting.splice(0, READS_PER_TURN)) resume();
  if (waiting.length > 0) setImmediate(run);
}

/**
 * Calls `resume` in a later turn of the event loop, one connection after the other, so that other connections are
 * served in between.
 */
export function inLaterTurn(resume: () => void): void {
  waiting.push(resume);
  if (waiting.length === 1) setImmediate(run);
}
