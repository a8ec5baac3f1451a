import assert from "node:assert/strict";
import { test } from "node:test";
import { progressLine, shareByTime, startProgress } from "../../proxy/cli/progress.ts";
import { programMissing } from "../harness/packages.ts";
import { inTerminal, visibleLines } from "../harness/terminal.ts";

/** The line that long work shows on a terminal. */

const skip = programMissing("python3") ?? false;

const parts = [
  { name: "tunnel", seconds: 30 },
  { name: "tls", seconds: 30 },
  { name: "idle", seconds: 60 },
];

/** A stream that keeps its text. */
function stream(isTTY: boolean, columns = 80) {
  const texts: string[] = [];
  const write = (text: string) => texts.push(text) > 0;
  return { texts, stream: { isTTY, columns, write } as unknown as NodeJS.WriteStream };
}

test("progress shows the part, the share that is done, and the remaining time", () => {
  const line = (at: number, share: number, elapsedSeconds: number) =>
    progressLine(parts, { at, share, elapsedSeconds });
  assert.equal(line(0, 0, 0), "tunnel (1 of 3), 0 % done, about 2 min left");
  assert.equal(line(0, 0.5, 10), "tunnel (1 of 3), 13 % done, about 70 s left");
  assert.equal(line(2, 0, 300), "idle (3 of 3), 50 % done, about 5 min left");
  assert.equal(line(1, 1.2, 90), "tls (2 of 3), 50 % done, longer than expected");
});

test("progress without expected times shows what and how far only", () => {
  const unknown = [{ name: "read" }, { name: "write", seconds: 1 }];
  assert.equal(progressLine(unknown, { at: 0, share: 0, elapsedSeconds: 12 }), "read (1 of 2), 12 s");
  assert.equal(progressLine(unknown, { at: 0, share: 0.3, elapsedSeconds: 12 }), "read (1 of 2), 30 % done");
  assert.equal(progressLine([{ name: "read" }], { at: 0, share: 0, elapsedSeconds: 200 }), "read, 3 min");
});

test("the share of a part follows from its time and the pace of the parts before", () => {
  assert.equal(shareByTime(parts, 0, 15, 15), 0.5);
  // The first part took twice its time.
  assert.equal(shareByTime(parts, 1, 75, 15), 0.25);
  assert.equal(shareByTime(parts, 0, 60, 60), 2);
});

test("progress replaces its line on a terminal, and writes nothing elsewhere", (t) => {
  const before = process.env.TERM;
  t.after(() => Object.assign(process.env, { TERM: before ?? "" }));
  process.env.TERM = "xterm";
  const terminal = stream(true);
  const shown = startProgress(parts, { stream: terminal.stream });
  shown.show("tls", 0);
  shown.clear();
  shown.clear();
  shown.end();
  assert.equal(terminal.texts.join(""), "\r\x1b[Ktls (2 of 3), 25 % done, about 1 s left\r\x1b[K");
  const widthless = stream(true, 0);
  const wide = startProgress(parts, { stream: widthless.stream });
  wide.show("tls");
  wide.end();
  assert.match(widthless.texts.join(""), / left\r/);
  const file = stream(false);
  const silent = startProgress(parts, { stream: file.stream });
  silent.show("tls", 0.5);
  silent.clear();
  silent.end();
  assert.deepEqual(file.texts, []);
});

/** A program that works for a long time. `end`: its last statement. */
const program = (end: string, options = "{}") => [
  process.execPath,
  "--disable-warning=ExperimentalWarning",
  "--input-type=module",
  "--eval",
  `import { startProgress } from ${JSON.stringify(new URL("../../proxy/cli/progress.ts", import.meta.url).href)};
   const progress = startProgress([{ name: "first part", seconds: 9 }, { name: "second part", seconds: 9 }], ${options});
   progress.show("first part");
   progress.clear();
   console.log("a result");
   progress.show("second part");
   ${end}`,
];

test("a terminal shows other output only, after the end, an error and Ctrl-C", { skip }, async () => {
  const ended = await inTerminal(program("progress.end();"));
  assert.match(ended.text, /first part \(1 of 2\), 0 % done, about 18 s left/);
  assert.deepEqual([ended.lines, ended.status], [["a result", ""], 0]);
  const exited = await inTerminal(program("process.exit(3);"));
  assert.deepEqual([exited.lines, exited.status], [["a result", ""], 3]);
  const failed = await inTerminal(program("throw new Error('broken');"));
  assert.match(failed.text, /second part/);
  assert.doesNotMatch(failed.lines.join("\n"), / part \(/);
  assert.equal(failed.lines[0], "a result");
  assert.match(failed.lines.join(), /Error: broken/);
  const interrupted = await inTerminal(program("setInterval(() => {}, 1e6);"), { interruptAt: "second part" });
  // The terminal itself echoes ^C at the end of the line, before the program gets the signal.
  assert.deepEqual([interrupted.lines, interrupted.status], [["a result", ""], -2]);
});

test("Ctrl-C also reaches the listeners of a program", { skip }, async () => {
  const end = `process.once("SIGINT", () => { console.log("cleaned up"); process.once("SIGINT", () => process.exit(5)); process.kill(process.pid, "SIGINT") });
   setInterval(() => {}, 1e6);`;
  const { lines, status } = await inTerminal(program(end), { interruptAt: "second part" });
  assert.deepEqual([lines, status], [["a result", "cleaned up", ""], 5]);
});

test("a line is not wider than its terminal", { skip }, async () => {
  const { text } = await inTerminal(program("progress.end();"), { columns: 24 });
  assert.match(text, /\r\x1b\[Kfirst part \(1 of 2\), 0 \r/);
  assert.ok(visibleLines(text.replaceAll("\r\x1b[K", "\n")).every((line) => line.length < 24));
});

test("NO_COLOR changes nothing, a dumb terminal and short work show nothing", { skip }, async () => {
  const plain = await inTerminal(program("progress.end();"), { env: { NO_COLOR: "1" } });
  assert.match(plain.text, /first part/);
  const dumb = await inTerminal(program("progress.end();"), { env: { TERM: "dumb" } });
  assert.equal(dumb.text, "a result\r\n");
  const short = await inTerminal(program("progress.end();", "{ afterMs: 60000 }"));
  assert.equal(short.text, "a result\r\n");
});
