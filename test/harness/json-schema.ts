import assert from "node:assert/strict";

/** A check of values by the part of JSON Schema that our schemas use. */

export type Schema = { [keyword: string]: unknown } & { properties?: Record<string, Schema>; items?: Schema };
export type RootSchema = Schema & { $defs?: Record<string, Schema> };

/** Keywords that do not restrict values. */
const TEXT = ["$schema", "$id", "$defs", "title", "description", "default", "format"];

/** The part that `$ref` names, or the part itself. */
export const follow = (root: RootSchema, part: Schema): Schema =>
  part.$ref === undefined ? part : root.$defs![String(part.$ref).replace("#/$defs/", "")]!;

/**
 * Whether a value is valid by the keywords of a part of a schema. `$ref` is followed only to `$defs` of the root. @throws
 * AssertionError for a keyword that this function does not know
 */
export function fits(root: RootSchema, given: Schema, value: unknown): boolean {
  const part = follow(root, given);
  const fields = typeof value === "object" && value !== null && !Array.isArray(value) ? value : null;
  const list = Array.isArray(value) ? value : null;
  const number = typeof value === "number" ? value : null;
  const has = (keys: unknown) => fields === null || (keys as string[]).every((key) => key in fields);
  const checks: Record<string, (operand: never) => boolean> = {
    const: (operand: unknown) => value === operand,
    enum: (operand: unknown[]) => operand.includes(value),
    type: (operand: string) =>
      ({
        object: fields !== null,
        array: list !== null,
        string: typeof value === "string",
        boolean: typeof value === "boolean",
      })[operand] ?? Number.isInteger(number),
    pattern: (operand: string) => typeof value !== "string" || new RegExp(operand).test(value),
    minimum: (operand: number) => number === null || number >= operand,
    maximum: (operand: number) => number === null || number <= operand,
    minLength: (operand: number) => typeof value !== "string" || value.length >= operand,
    maxLength: (operand: number) => typeof value !== "string" || value.length <= operand,
    minItems: (operand: number) => list === null || list.length >= operand,
    maxItems: (operand: number) => list === null || list.length <= operand,
    items: (operand: Schema) => list?.every((item) => fits(root, operand, item)) ?? true,
    required: has,
    additionalProperties: () => Object.keys(fields ?? {}).every((key) => Object.hasOwn(part.properties!, key)),
    properties: (operand: Record<string, Schema>) =>
      Object.entries(fields ?? {}).every(([key, item]) => operand[key] === undefined || fits(root, operand[key], item)),
    dependentRequired: (operand: Record<string, string[]>) =>
      Object.entries(operand).every(([key, others]) => fields === null || !(key in fields) || has(others)),
    anyOf: (operand: Schema[]) => operand.some((one) => fits(root, one, value)),
    not: (operand: Schema) => !fits(root, operand, value),
    oneOf: (operand: Schema[]) => operand.filter((one) => fits(root, one, value)).length === 1,
  };
  return Object.entries(part).every(([keyword, operand]) => {
    if (TEXT.includes(keyword) || keyword === "$ref") return true;
    return (checks[keyword] ?? assert.fail(`unknown keyword ${keyword}`))(operand as never);
  });
}
