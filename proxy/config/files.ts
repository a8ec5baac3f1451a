import { closeSync, constants, fstatSync, openSync, readSync, type Stats } from "node:fs";

/** Options for reading a file. */
interface FileOptions {
  /** Bytes. A longer file is an error. */
  maxBytes: number;
  /** Accept a pipe, such as `<(command)` of a shell. Only for the start: reading a pipe blocks the process. */
  pipe?: boolean;
}

/** Milliseconds without output from a pipe's writer after which reading fails. */
const PIPE_WAIT_MS = 10_000;
const PIPE_POLL_MS = 10;
const CHUNK_BYTES = 65_536;

const kindOf = (stat: Stats): string => {
  if (stat.isDirectory()) return "EISDIR: a directory";
  if (stat.isFIFO()) return "a pipe";
  return stat.isCharacterDevice() || stat.isBlockDevice() ? "a device" : "something else";
};

/** The next bytes of a pipe or file; 0 at its end. A pipe whose writer is silent is polled until `deadline`. */
function readSome(fd: number, chunk: Buffer, deadline: number): number {
  for (;;) {
    try {
      return readSync(fd, chunk, 0, chunk.length, null);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EAGAIN") throw error;
      if (Date.now() > deadline) throw new Error(`the pipe's writer is silent for ${PIPE_WAIT_MS / 1000} s`);
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, PIPE_POLL_MS);
    }
  }
}

/**
 * The bytes of a small file. Never blocks on a pipe or device in the file's place: it reads regular files only, and
 * pipes where `pipe` allows them. @throws Error whose message describes the problem
 */
export function readSmallFile(file: string | Buffer, options: FileOptions): Buffer {
  // A pipe without a writer blocks an open without this flag.
  const fd = openSync(file, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    const stat = fstatSync(fd);
    if (!stat.isFile() && !(options.pipe === true && stat.isFIFO())) {
      throw new Error(`${kindOf(stat)}, not a regular file`);
    }
    const parts: Buffer[] = [];
    let length = 0;
    for (;;) {
      const chunk = Buffer.allocUnsafe(CHUNK_BYTES);
      const read = readSome(fd, chunk, Date.now() + PIPE_WAIT_MS);
      if (read === 0) return Buffer.concat(parts);
      length += read;
      if (length > options.maxBytes) throw new Error(`longer than ${options.maxBytes} bytes`);
      parts.push(chunk.subarray(0, read));
    }
  } finally {
    closeSync(fd);
  }
}

/** The text of a small file. Bytes that are not UTF-8 are an error: decoding would replace them. */
export function readSmallText(file: string, options: FileOptions): string {
  const bytes = readSmallFile(file, options);
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new Error("not UTF-8 text");
  }
}
