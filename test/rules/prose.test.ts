import assert from "node:assert/strict";
import { globSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";

/**
 * Words, openings and long test names that must not come back (CONTRIBUTING.md, "Rules for texts"). The lists are
 * short, and a clean result does not make a text good.
 */

const root = new URL("../..", import.meta.url).pathname;

/** Texts that are checked for words: docs, help, messages, comments. */
const TEXTS = [
  "*.md",
  "Dockerfile",
  "Makefile",
  ".ci/run",
  ".github/**/*.{md,yml}",
  "bin/**",
  "charts/**/*.{md,ts,tpl,txt,yaml,json,mjs}",
  "crds/**/*.{md,ts,yaml}",
  "docs/**/*.md",
  "examples/**/*.{yaml,md,ts,cfg,conf,service}",
  "{operator,proxy}/**/*.ts",
  "test/**/*.ts",
];

/** Sources whose comments are checked for their openings. */
const COMMENTS = ["{bin,charts,crds,operator,proxy}/**/*.ts", "test/**/*.ts"];

/** Test files whose names are checked for their length. */
const TESTS = ["test/**/*.{test,inside}.ts"];

/** Words with their replacement. */
const WORDS: readonly [pattern: RegExp, fix: string][] = [
  [/\b(nobody|somebody|whoever)\b/i, "name the actor"],
  [/\banew\b/i, "again, or a new …"],
  [/\bmend(s|ed|ing)?\b/i, "fix"],
  [/(?<!#)\b(tells?|told)\b/i, "report, return, show"],
  [/\bstands?\b(?! for\b)/i, "is, exists"],
  [/\b(go|goes|went) on\b/i, "continue"],
  [/\b(gives?|gave) way\b/i, "is deleted, is replaced"],
  [/\blets? through\b/i, "allow, forward"],
];

/** Openings of comments with their replacement. */
const OPENINGS: readonly [pattern: RegExp, fix: string][] = [
  [/^\s*(\/\*\*|\/\/) (What|Who|Whose|Whatever) /, "begin with a noun phrase or a verb"],
];

const MAX_TEST_NAME = 90;

interface Line {
  file: string;
  number: number;
  text: string;
}

/** Lines of files; in Markdown without code. */
function linesOf(patterns: readonly string[]): Line[] {
  const files = globSync([...patterns], { cwd: root, exclude: (name) => /(^|\/)(node_modules|golden)$/.test(name) });
  assert.ok(files.length > 0, patterns.join(" "));
  return files.filter(isText).flatMap((file) =>
    readFileSync(join(root, file), "utf8")
      .split("\n")
      .map((text, i) => ({ file, number: i + 1, text: file.endsWith(".md") ? withoutCode(text) : text })),
  );
}

/** CONTRIBUTING.md quotes the words, and so does this file. */
const QUOTING = ["CONTRIBUTING.md", "test/rules/prose.test.ts"];
const isText = (file: string): boolean => statSync(join(root, file)).isFile() && !QUOTING.includes(file);
const withoutCode = (line: string): string => (/^ {4,}\S/.test(line) ? "" : line.replace(/`[^`]*`/g, ""));

function hitsOf(lines: readonly Line[], rules: readonly [RegExp, string][]): string[] {
  return lines.flatMap(({ file, number, text }) =>
    rules.flatMap(([pattern, fix]) => {
      const found = pattern.exec(text)?.[0].trim();
      return found === undefined ? [] : [`${file}:${number}: "${found}": ${fix}`];
    }),
  );
}

const NAME = /\b(?:test|it|describe)\(\s*(?:"((?:[^"\\]|\\.)*)"|`([^`]*)`)/g;

/** Names of tests that are too long. */
function longNames(patterns: readonly string[]): string[] {
  const files = globSync([...patterns], { cwd: root });
  return files.flatMap((file) => {
    const text = readFileSync(join(root, file), "utf8");
    return [...text.matchAll(NAME)].flatMap((match) => {
      const name = match[1] ?? match[2]!;
      const line = text.slice(0, match.index).split("\n").length;
      return name.length > MAX_TEST_NAME ? [`${file}:${line}: ${name.length} characters: ${name}`] : [];
    });
  });
}

test("texts use the verbs of the field", () => {
  assert.deepEqual(hitsOf(linesOf(TEXTS), WORDS), []);
});

test("comments begin with a noun phrase or a verb", () => {
  assert.deepEqual(hitsOf(linesOf(COMMENTS), OPENINGS), []);
});

test("test names have at most 90 characters", () => {
  assert.deepEqual(longNames(TESTS), []);
});

test("the search finds a word, an opening and a long name", () => {
  const lines = ["Nobody is told.", "  /** What served before. */", "stands for all"].map((text, i) => ({
    file: "a",
    number: i + 1,
    text,
  }));
  assert.deepEqual(hitsOf(lines, WORDS), ['a:1: "Nobody": name the actor', 'a:1: "told": report, return, show']);
  assert.deepEqual(hitsOf(lines, OPENINGS), ['a:2: "/** What": begin with a noun phrase or a verb']);
  assert.equal([...`test("${"x".repeat(91)}", () => {`.matchAll(NAME)][0]![1]!.length, 91);
});
