import {
  Composer,
  type CST,
  type Document,
  type DocumentOptions,
  isAlias,
  isCollection,
  isMap,
  isPair,
  isScalar,
  isSeq,
  Lexer,
  LineCounter,
  type ParseOptions,
  Parser,
  parseDocument,
} from "yaml";
import { PolicyError } from "./rules.ts";

/** The parsed text of a policy file. */
export interface ParsedText {
  value: unknown;
  format: "json" | "yaml";
  /** Lines were indented with tabs, which YAML forbids. Each tab was read as two spaces. */
  tabs: boolean;
}

/**
 * Limit of the aliases in one YAML file: an acl.yaml of 1,024 services may have a few for each. The parser looks for the
 * anchor of an alias among all of them.
 */
export const MAX_ALIASES = 4096;
/** Limit of the values in one YAML file, with those behind each alias: a short text can stand for gigabytes. */
export const MAX_VALUES = 10_000_000;

function fail(path: string, message: string): never {
  throw new PolicyError([{ path, message }]);
}

function twice(path: string, line: number): never {
  fail(path, `the key is given twice (again in line ${line})`);
}

/** One open object or array of a JSON text. */
interface Level {
  path: string;
  /** Keys so far; null for an array. */
  keys: Set<string> | null;
  /** The last key of an object, or the current index of an array. */
  at: string | number;
}

const pathOf = ({ path, keys, at }: Level): string => {
  if (keys === null) return `${path}[${at}]`;
  return path === "" ? String(at) : `${path}.${at}`;
};

/** The index after the JSON string that starts at `start`. */
function endOfString(text: string, start: number): number {
  for (let quote = text.indexOf('"', start + 1); ; quote = text.indexOf('"', quote + 1)) {
    let slash = quote;
    while (text.charCodeAt(slash - 1) === 0x5c) slash--;
    if ((quote - slash) % 2 === 0) return quote + 1;
  }
}

/**
 * Refuses an object with a duplicate key: JSON.parse silently uses the last one, other parsers the first. Reads valid
 * JSON only, in one pass. @throws PolicyError
 */
function refuseRepeatedKeys(text: string): void {
  const levels: Level[] = [];
  let level: Level | undefined;
  // Whether the next string is a key, if it is in an object.
  let inKey = false;
  for (let i = 0; i < text.length; i++) {
    switch (text.charCodeAt(i)) {
      case 0x22: {
        const end = endOfString(text, i);
        if (inKey && level?.keys) {
          const raw = text.slice(i + 1, end - 1);
          const key = raw.includes("\\") ? (JSON.parse(text.slice(i, end)) as string) : raw;
          level.at = key;
          if (level.keys.has(key)) twice(pathOf(level), text.slice(0, i).split("\n").length);
          level.keys.add(key);
          inKey = false;
        }
        i = end - 1;
        break;
      }
      case 0x7b: // {
      case 0x5b: {
        const keys = text.charCodeAt(i) === 0x7b ? new Set<string>() : null;
        level = { path: level === undefined ? "" : pathOf(level), keys, at: 0 };
        levels.push(level);
        inKey = true;
        break;
      }
      case 0x7d: // }
      case 0x5d:
        levels.pop();
        level = levels.at(-1);
        break;
      case 0x2c: // ,
        if (level?.keys === null) level.at = (level.at as number) + 1;
        inKey = true;
    }
  }
}

function parseJson(text: string): unknown {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    fail("", `not valid JSON: ${(error as Error).message}`);
  }
  refuseRepeatedKeys(text);
  return value;
}

/** A merge key: the parser replaces it by a symbol. */
const MERGE = "<<";

/** The number of values of a node, with those behind its aliases. `anchors`: the sizes of the nodes before it. */
function valuesOf(node: unknown, anchors: Map<string, number>): number {
  if (isAlias(node)) return anchors.get(node.source) ?? 1;
  if (!isCollection(node)) return 1;
  let size = 1;
  for (const item of node.items) size += valuesOf(isPair(item) ? item.value : item, anchors);
  if (node.anchor !== undefined) anchors.set(node.anchor, size);
  return size;
}

/**
 * Refuses ambiguous YAML: repeated and compound keys, more aliases than people write, and merge keys inside of anchors,
 * which would expand a short text exponentially.
 */
function checkNodes(root: unknown, lines: LineCounter): void {
  const open: { node: unknown; path: string; anchored: boolean }[] = [{ node: root, path: "", anchored: false }];
  let aliases = 0;
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    const { node, path } = next;
    const anchored = next.anchored || (isCollection(node) && node.anchor !== undefined);
    if (isAlias(node)) {
      if (++aliases > MAX_ALIASES) fail(path, `the file has more than ${MAX_ALIASES} YAML aliases`);
    } else if (isSeq(node)) {
      for (const [i, item] of node.items.entries()) {
        if (!isScalar(item)) open.push({ node: item, path: `${path}[${i}]`, anchored });
      }
    } else if (isMap(node)) {
      const seen = new Set<string>();
      for (const { key, value } of node.items) {
        if (!isScalar(key)) fail(path, "not valid YAML: a key must be a word");
        const merges = typeof key.value === "symbol";
        // 1 and "1" are two keys in YAML, but one key of the parsed object.
        const name = merges ? MERGE : String(key.value);
        const here = path === "" ? name : `${path}.${name}`;
        if (merges && anchored) fail(here, "a merge key inside of an anchor; merge several with <<: [*a, *b] instead");
        if (seen.has(name)) twice(here, lines.linePos(key.range?.[0] ?? 0).line);
        seen.add(name);
        if (!isScalar(value)) open.push({ node: value, path: here, anchored });
      }
    }
  }
}

/** An unquoted `*.name` is an alias in YAML: the usual slip in these files. */
function aliasMessage(thrown: ReferenceError): string {
  const alias = /^Unresolved alias .*: (\S+)$/.exec(thrown.message)?.[1];
  if (alias === undefined) return thrown.message;
  if (alias.startsWith(".")) return `*${alias} is an alias in YAML; put it in quotes: "*${alias}"`;
  return `*${alias} is an alias in YAML without an anchor &${alias}; a wildcard is "*." in front of a name, in quotes`;
}

/**
 * The text without a document marker at its end, which begins an empty document. Many templates write one. Nothing but
 * comments may follow it.
 */
function withoutEmptyEnd(text: string): string {
  const at = text.lastIndexOf("\n---");
  if (at < 0) return text;
  const [marker, ...lines] = text.slice(at + 4).split("\n");
  const isEmpty = /^(?:[ \t]+(?:#.*)?)?\r?$/.test(marker!) && lines.every((line) => /^[ \t]*(?:#.*)?\r?$/.test(line));
  return isEmpty ? text.slice(0, at + 1) : text;
}

/** Lexical tokens of one step: some 10 ms. */
const STEP_TOKENS = 8192;

/** The only document of these tokens; undefined if there is any problem. */
function composed(tokens: CST.Token[], length: number, options: ParseOptions & DocumentOptions): Document | undefined {
  const [document, ...more] = new Composer(options).compose(tokens, true, length);
  if (document === undefined || more.length + document.errors.length + document.warnings.length > 0) return undefined;
  return document;
}

/** `parseDocument` in steps. Each yields the share of the text that is read; the last one, 1, is before the composition. */
function* documentInSteps(text: string, lines: LineCounter): Generator<number, Document> {
  // The parser's own check of keys compares each key with each other one.
  const options = { uniqueKeys: false, merge: true, lineCounter: lines };
  const parser = new Parser(lines.addNewLine);
  const tokens: CST.Token[] = [];
  lines.addNewLine(0);
  let count = 0;
  for (const token of new Lexer().lex(text)) {
    if (++count % STEP_TOKENS === 0) yield parser.offset / text.length;
    for (const whole of parser.next(token)) tokens.push(whole);
  }
  for (const whole of parser.end()) tokens.push(whole);
  yield 1;
  const document = composed(tokens, text.length, options);
  if (document !== undefined) return document;
  // Only parseDocument names the line of a problem. The memory of the first attempt is free then.
  tokens.length = 0;
  return parseDocument(text, { ...options, lineCounter: new LineCounter() });
}

function* yamlInSteps(text: string): Generator<number, unknown> {
  const lines = new LineCounter();
  const document = yield* documentInSteps(withoutEmptyEnd(text), lines);
  const problem = document.errors[0] ?? document.warnings[0];
  if (problem?.code === "MULTIPLE_DOCS") {
    fail("", "not valid YAML: Source contains multiple documents; write one policy in a file");
  }
  if (problem !== undefined) fail("", `not valid YAML: ${problem.message.split("\n")[0]}`);
  // YAML 1.1 has other numbers and words.
  if (document.directives?.yaml.version !== "1.2") fail("", "not valid YAML: write it in YAML 1.2, without %YAML");
  checkNodes(document.contents, lines);
  if (valuesOf(document.contents, new Map()) > MAX_VALUES) {
    fail("", `the file has more than ${MAX_VALUES} values, with those behind its YAML aliases`);
  }
  try {
    // The parser's own limit is 100 aliases of an anchor.
    return document.toJS({ maxAliasCount: -1 });
  } catch (thrown) {
    if (thrown instanceof RangeError) throw thrown;
    if (thrown instanceof ReferenceError) fail("", `not valid YAML: ${aliasMessage(thrown)}`);
    // The only other error of the parser.
    fail("", "not valid YAML: the value of a merge key (<<) must be a mapping, an alias of one, or a list of these");
  }
}

/**
 * Parses JSON (a text that starts with `{`) or YAML. Refuses text that two parsers may read differently: repeated keys,
 * several documents, YAML 1.1. @throws PolicyError with the first problem
 */
export function parseText(text: string): ParsedText {
  return withoutPauses(parseInSteps(text));
}

/** The result of work in steps, which it all does now. */
export function withoutPauses<Result>(steps: Iterator<unknown, Result>): Result {
  for (;;) {
    const { done, value } = steps.next();
    if (done) return value as Result;
  }
}

/** The same in steps of some 10 ms, which each yield the share of the text that is read. @throws PolicyError */
export function* parseInSteps(text: string): Generator<number, ParsedText> {
  const plain = text.replace(/^\uFEFF/, "");
  const start = plain.trimStart();
  if (start === "") fail("", "the file is empty");
  // YAML forbids NUL, and a file that was not written completely may contain it.
  if (plain.includes("\0")) fail("", "the file has a NUL character");
  try {
    if (start.startsWith("{")) return { value: parseJson(plain), format: "json", tabs: false };
    const spaced = plain.replace(/^[\t ]+/gm, (space) => space.replaceAll("\t", "  "));
    return { value: yield* yamlInSteps(spaced), format: "yaml", tabs: spaced !== plain };
  } catch (error) {
    if (error instanceof RangeError) fail("", "the file is nested too deeply");
    throw error;
  }
}
