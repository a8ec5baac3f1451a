import { characterProblem } from "../policy/target-problem.ts";
import { protocolOfLine } from "./other-protocols.ts";

/** A request line (RFC 9112 §3). */
export interface RequestLine {
  method: string;
  /** The request target as sent: visible ASCII only. */
  target: string;
  minor: 0 | 1;
}

/** Method and target as sent, possibly malformed (latin1). Without `complete`, the target may be cut. */
export interface Sent {
  method: string;
  target: string;
  complete: boolean;
}

const METHOD = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;

/** Reads a request line strictly. An error is a sentence for the client. */
export function parseRequestLine(line: string): RequestLine | { error: string } {
  const parts = line.split(" ");
  if (parts.length !== 3) {
    const other = protocolOfLine(line);
    if (other !== undefined) return { error: other };
    return parts.length > 3
      ? { error: "the request line has more than two spaces; percent-encode those of the target (%20)" }
      : { error: "the request line is not METHOD TARGET HTTP/1.1" };
  }
  const [method, target, version] = parts as [string, string, string];
  if (target === "") return { error: "the request line has no target" };
  if (!METHOD.test(method)) return { error: "the method is not a token" };
  const problem = characterProblem(target);
  if (problem !== null) return { error: problem };
  if (version !== "HTTP/1.1" && version !== "HTTP/1.0") {
    return { error: protocolOfLine(line) ?? "the version is not HTTP/1.1" };
  }
  return { method, target, minor: version === "HTTP/1.1" ? 1 : 0 };
}

/** Method and target of a request line, however malformed it is. Without `complete` its end is missing. */
export function readSent(line: string, complete: boolean): Sent {
  const [method = "", ...parts] = line.split(" ");
  if (parts.length > 1 && /^HTTP\//i.test(parts.at(-1)!)) parts.pop();
  return { method, target: parts.join(" "), complete };
}
