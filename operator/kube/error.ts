/** One cause of a rejected object (metav1.StatusCause). */
interface StatusCause {
  reason?: string;
  message?: string;
  field?: string;
}

/** metav1.Status, the answer of the API server to a failed call. */
interface ApiStatus {
  message?: string;
  reason?: string;
  code?: number;
  details?: { causes?: StatusCause[]; retryAfterSeconds?: number };
}

/** Reasons for answers without a Status, such as those of proxies or aggregated servers. */
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

/** Limit of a quoted answer without a Status, in characters. */
const MAX_TEXT = 300;

/**
 * Failure of a call. Code 0 is a call without a complete answer. In this case it is unknown whether the server carried
 * out the call.
 */
export class ApiError extends Error {
  /** HTTP status; 0 if there is no complete answer. */
  readonly code: number;
  /**
   * Reason of the API server: NotFound, Conflict, AlreadyExists, Invalid, Expired, Forbidden and others. With code 0:
   * Timeout, Unreachable, Aborted, BadAnswer, NoCredentials, NotAllowedToWrite, and for watches Silent, Short, Missed.
   */
  readonly reason: string;
  /** Retry delay that the server requests, in milliseconds. */
  readonly retryAfterMs: number | undefined;
  /** Wrong fields, if the server names them. */
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

function parseStatus(body: string): ApiStatus | undefined {
  try {
    const value = JSON.parse(body) as (ApiStatus & { kind?: string }) | null;
    return value?.kind === "Status" ? value : undefined;
  } catch {
    return undefined; // not JSON: the message quotes the text
  }
}

/** `Retry-After` in milliseconds. The API server writes seconds; dates are ignored. */
function retryAfter(header: string | undefined, status: ApiStatus | undefined): number | undefined {
  const seconds =
    header !== undefined && /^\d{1,6}$/.test(header) ? Number(header) : status?.details?.retryAfterSeconds;
  return seconds === undefined || seconds <= 0 ? undefined : seconds * 1000;
}

/** Error of an answer. `call`: method and path. */
export function errorOfAnswer(call: string, code: number, body: string, retryAfterHeader?: string): ApiError {
  const status = parseStatus(body);
  const reason = status?.reason || REASONS[code] || "Unknown";
  const text = status?.message || body.slice(0, MAX_TEXT).trim() || "no message";
  return new ApiError(code, reason, `${call}: ${code} ${reason}: ${text}`, {
    retryAfterMs: retryAfter(retryAfterHeader, status),
    causes: status?.details?.causes ?? [],
  });
}

/** Error that a watch delivered as its last event. */
export function errorOfEvent(call: string, object: unknown): ApiError {
  const status = object as ApiStatus;
  return errorOfAnswer(call, status.code ?? 500, JSON.stringify({ ...status, kind: "Status" }));
}

/** Error of a call without a complete answer. */
export function errorOfTransport(call: string, reason: string, cause: unknown): ApiError {
  const text = cause instanceof Error ? ((cause as NodeJS.ErrnoException).code ?? cause.message) : String(cause);
  return new ApiError(0, reason, `${call}: ${text}`, { cause });
}
