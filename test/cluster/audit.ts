import { existsSync, readFileSync } from "node:fs";

/** One answered request of the audit log, with the fields that tests use. */
export interface AuditLine {
  verb: string;
  user: string;
  userAgent: string;
  path: string;
  code: number;
}

/** Records user, target and status of every request, without bodies. */
export const AUDIT_POLICY = {
  apiVersion: "audit.k8s.io/v1",
  kind: "Policy",
  omitStages: ["RequestReceived", "ResponseStarted"],
  rules: [{ level: "Metadata" }],
};

const READS = ["get", "list", "watch"];

/** Whether a request changed something or tried to. */
export const writes = ({ verb }: AuditLine): boolean => !READS.includes(verb);

/** The answered requests so far, in the order of their ends. A client may get its answer slightly earlier. */
export function readAudit(file: string): AuditLine[] {
  if (!existsSync(file)) throw new Error("there is no audit log: start the control plane with audit: true");
  // Text after the last line end is still being written.
  const lines = readFileSync(file, "utf8").split("\n").slice(0, -1);
  return lines.map((line) => {
    const event = JSON.parse(line) as {
      verb: string;
      user: { username: string };
      userAgent?: string;
      requestURI: string;
      responseStatus?: { code: number };
    };
    return {
      verb: event.verb,
      user: event.user.username,
      userAgent: event.userAgent ?? "",
      path: event.requestURI,
      code: event.responseStatus?.code ?? 0,
    };
  });
}
