import { closeSync, openSync, writeSync } from "node:fs";

/**
 * POSIX tar (ustar) with reproducible content: no times, no owners, and an order that does not depend on the file
 * system.
 */

/** One entry of an archive. */
export interface TarEntry {
  /** Without a leading slash; the path of a folder ends with a slash. */
  path: string;
  /** Permission bits. */
  mode: number;
  /** Content of a file; absent: a folder. */
  content?: Buffer;
}

const BLOCK = 512;
const FILE = "0";
const FOLDER = "5";

function pathFields(path: string): { name: string; prefix: string } {
  if (Buffer.byteLength(path) <= 100) return { name: path, prefix: "" };
  const cut = path.indexOf("/", Buffer.byteLength(path) - 101);
  const [prefix, name] = [path.slice(0, cut), path.slice(cut + 1)];
  if (cut < 0 || name === "" || Buffer.byteLength(prefix) > 155) throw new Error(`${path}: too long for a tar header`);
  return { name, prefix };
}

function header({ path, mode, content }: TarEntry): Buffer {
  const block = Buffer.alloc(BLOCK);
  const { name, prefix } = pathFields(path);
  const octal = (value: number, at: number, length: number) =>
    block.write(`${value.toString(8).padStart(length - 1, "0")}\0`, at);
  block.write(name, 0);
  octal(mode, 100, 8);
  octal(0, 108, 8); // uid
  octal(0, 116, 8); // gid
  octal(content?.length ?? 0, 124, 12);
  octal(0, 136, 12); // mtime
  block.write(" ".repeat(8), 148);
  block.write(content === undefined ? FOLDER : FILE, 156);
  block.write("ustar\x0000", 257);
  block.write(prefix, 345);
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148);
  return block;
}

/** An archive of these entries, in pieces, in the given order. @throws when a path does not fit */
export function* tar(entries: readonly TarEntry[]): Generator<Buffer> {
  for (const entry of entries) {
    yield header(entry);
    const { content } = entry;
    if (content === undefined) continue;
    yield content;
    yield Buffer.alloc((BLOCK - (content.length % BLOCK)) % BLOCK);
  }
  yield Buffer.alloc(2 * BLOCK);
}

/** Files with their parent folders, sorted by path. `folders`: folders with a special mode. */
export function tree(
  files: readonly (TarEntry & { content: Buffer })[],
  folders: readonly TarEntry[] = [],
): TarEntry[] {
  const all = new Map<string, TarEntry>();
  for (const { path } of [...files, ...folders]) {
    const parts = path.split("/").slice(0, -1);
    for (let depth = 1; depth <= parts.length; depth++) {
      const folder = `${parts.slice(0, depth).join("/")}/`;
      all.set(folder, { path: folder, mode: 0o755 });
    }
  }
  for (const entry of [...folders, ...files]) all.set(entry.path, entry);
  return [...all.values()].sort((a, b) => (a.path < b.path ? -1 : 1));
}

/** Writes an archive to a file, piece by piece. */
export function writeTar(path: string, entries: readonly TarEntry[]): void {
  const file = openSync(path, "w");
  try {
    for (const piece of tar(entries)) for (let at = 0; at < piece.length; ) at += writeSync(file, piece, at);
  } finally {
    closeSync(file);
  }
}
