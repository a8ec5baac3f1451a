import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { packageJson, ROOT } from "../image/bundle.ts";

/** The manual page outrider(1): the help of the commands. */

/** Text of man(7) that is printed as it is. */
function literal(text: string): string {
  const escaped = text
    .replaceAll("\\", "\\e")
    .replaceAll("-", "\\-")
    .replace(/^(?=[.'])/gm, "\\&");
  return `.nf\n${escaped.trimEnd()}\n.fi`;
}

const help = (...args: string[]): string =>
  execFileSync(process.execPath, [join(ROOT, "proxy/main.ts"), ...args, "--help"], { encoding: "utf8" });

/** @param date the day of the release, in UTC */
export function manPage(date: Date): string {
  return `.TH OUTRIDER 1 "${date.toISOString().slice(0, 10)}" "outrider ${packageJson().version}" "User Commands"
.SH NAME
outrider \\- forward proxy for webhook senders
.SH SYNOPSIS
.B outrider
.I COMMAND
.RI [ options ]
.SH COMMANDS
${literal(help())}
.SH OPTIONS OF OUTRIDER PROXY
${literal(help("proxy"))}
.SH FILES
.TP
.I /etc/outrider/acl.yaml
Policy of outrider.service and outrider@.service.
.TP
.I /etc/default/outrider
Their variables.
`;
}
