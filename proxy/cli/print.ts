import { plainLine } from "../policy/rules.ts";

/** Limit in characters of an error. That of an invalid policy has up to 10 problems of 300 characters. */
const MAX_ERROR = 5000;
/** Limit in characters of a warning: two entries of a file and the text about them. */
const MAX_WARNING = 1000;

/** One line. Arguments and files may come from others, so it has no characters that act on a terminal. */
const line = (text: string, max: number): string => plainLine(text.replace(/\s*\n\s*/g, " "), max);

/** Prints an error of a command on stderr. */
export function printError(message: string): void {
  console.error(`outrider: ${line(message, MAX_ERROR)}`);
}

/** Prints a warning about a file on stderr. */
export function printWarning(warning: string): void {
  console.error(`warning: ${line(warning, MAX_WARNING)}`);
}
