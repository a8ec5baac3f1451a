/** One reason among several why an object was refused (metav1.StatusCause). */
export interface StatusCause {
  reason?: string;
  message?: string;
  field?: string;
}

/** metav1.Status, as the API server answers failures. */
interface Status {
  message?: string;
  reason?: string;
  code?: number;
  details?: { causes?: StatusCause[]; retryAfterSeconds?: number };
}

/** Reasons where the answer has no Status in it: a proxy's, or an aggregated server's. */
const REASONS: { [code: number]: string } = {
  400: "BadRequest",
  401: "Unauthorized",
  403: "Forbidden",
  404: "NotFound",
  405: "MethodNotAllowed",
  409: "Conflict",
  410: "Expired",
  413: "RequestEntityTooLarge",
  415: "UnsupportedMediaType",
  422: "Invalid",
  429: "TooManyRequests",
  500: "InternalError",
  503: "ServiceUnavailable",
  504: "Timeout",
};

/** Texts of answers that are no Status are cut to this many characters. */
const MAX_TEXT = 300;

/**
 * Every failure of a call, in one shape. Code 0 is a call without a whole answer: whether the server did what it was
 * asked is not known then.
 */
export class ApiError extends Error {
  /** HTTP status; 0: no whole answer came. */
  readonly code: number;
  /**
   * NotFound, Conflict, AlreadyExists, Invalid, Expired, Forbidden … as the API server says it; of code 0: Timeout, Unreachable,
   * Aborted, BadAnswer, NoCredentials, NotAllowedToWrite, and of a reflector's watch Silent, Short, Missed. */
  readonly reason: string;
  /** How long the server asks to wait, in milliseconds. */
  readonly retryAfterMs: number | undefined;
  /** Which fields are wrong, where the server says it. */
  readonly causes: readonly StatusCause[];

  constructor(
    code: number,
    reason: string,
    message: string,
    more: { retryAfterMs?: number | undefined; causes?: readonly StatusCause[]; cause?: unknown } = {},
  ) {
    super(message, more.cause === undefined ? undefined : { cause: more.cause });
    this.name = "ApiError";
    this.code = code;
    this.reason = reason;
    this.retryAfterMs = more.retryAfterMs;
    this.causes = more.causes ?? [];
  }
}

function parseStatus(body: string): Status | undefined {
  try {
    const value = JSON.parse(body) as (Status & { kind?: string }) | null;
    return value?.kind === "Status" ? value : undefined;
  } catch {
    return undefined; // not JSON: shown as the text that it is
  }
}

/** `Retry-After` in milliseconds. The API server writes whole seconds; a date is not read. */
function retryAfter(header: string | undefined, status: Status | undefined): number | undefined {
  const seconds =
    header !== undefined && /^\d{1,6}$/.test(header) ? Number(header) : status?.details?.retryAfterSeconds;
  return seconds === undefined || seconds <= 0 ? undefined : seconds * 1000;
}

/** The error of an answer. `call` says what was asked: method and path. */
export function errorOfAnswer(call: string, code: number, body: string, retryAfterHeader?: string): ApiError {
  const status = parseStatus(body);
  const reason = status?.reason || REASONS[code] || "Unknown";
  const text = status?.message || body.slice(0, MAX_TEXT).trim() || "no message";
  return new ApiError(code, reason, `${call}: ${code} ${reason}: ${text}`, {
    retryAfterMs: retryAfter(retryAfterHeader, status),
    causes: status?.details?.causes ?? [],
  });
}

/** The error that a watch delivered as its last event. */
export function errorOfEvent(call: string, object: unknown): ApiError {
  const status = object as Status;
  return errorOfAnswer(call, status.code ?? 500, JSON.stringify({ ...status, kind: "Status" }));
}

/** The error of a call without a whole answer. */
export function errorOfTransport(call: string, reason: string, cause: unknown): ApiError {
  const text = cause instanceof Error ? ((cause as NodeJS.ErrnoException).code ?? cause.message) : String(cause);
  return new ApiError(0, reason, `${call}: ${text}`, { cause });
}
