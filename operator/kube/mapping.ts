/** A JSON object. */
export type Mapping = Record<string, unknown>;

/** Whether a JSON value is an object. */
export function isMapping(value: unknown): value is Mapping {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
