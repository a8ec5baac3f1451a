import { plainLine } from "../policy/rules.ts";

/** Limit in characters of a line. That of an invalid policy has up to 10 problems of 300 characters. */
const MAX_LINE = 5000;

/** One line. Arguments and files may come from others, so it has no characters that act on a terminal. */
const line = (text: string): string => plainLine(text.replace(/\s*\n\s*/g, " "), MAX_LINE);

/** Prints an error of a command on stderr. */
export function printError(message: string): void {
  console.error(line(`outrider: ${message}`));
}

/** Prints a warning about a file on stderr. */
export function printWarning(warning: string): void {
  console.error(line(`warning: ${warning}`));
}
