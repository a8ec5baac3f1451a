import pino from "pino";

/** The logger of both programs. */
export type Logger = pino.Logger;

/** Levels of `--log-level`. */
export const LOG_LEVELS = ["trace", "debug", "info", "warn", "error", "fatal", "silent"] as const;

/**
 * Writes JSON with all non-ASCII characters as escapes. C1 control characters, line separators and marks that change
 * the direction of text act on terminals and forge lines in some viewers. Untrusted senders must not get them into a
 * log.
 */
export function asciiJson(json: string): string {
  return json.replace(/[\x7f-\uffff]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

/**
 * The operational log: JSON lines on stderr, written synchronously because they are few. Access records go to stdout.
 */
export function makeLog(level: string): Logger {
  const options = {
    level,
    base: null,
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label: string) => ({ level: label }) },
  };
  const out = pino.destination({ dest: 2, sync: true });
  return pino(options, { write: (line) => void out.write(asciiJson(line)) });
}
