import { createHash, randomBytes } from "node:crypto";

/** Frames of WebSockets (RFC 6455), for the client side. Pure but for the random masks. */

/** Opcodes (RFC 6455 §5.2). */
export const OPCODE = { continuation: 0, text: 1, binary: 2, close: 8, ping: 9, pong: 10 } as const;

/** Limit of one frame in bytes. Kubelets send at most 32 KiB. */
const MAX_FRAME_BYTES = 4 * 1024 * 1024;
/** Limit of the fragments of a message: empty ones have no limit of bytes. */
const MAX_FRAGMENTS = 1024;
/** Limit of the payload of a control frame in bytes (RFC 6455 §5.5). */
const MAX_CONTROL_BYTES = 125;
const MASK_BYTES = 4;
/** Of RFC 6455 §1.3. */
const ACCEPT_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/** Value of a new `Sec-WebSocket-Key`. */
export const newKey = (): string => randomBytes(16).toString("base64");

/** Value of `Sec-WebSocket-Accept` that answers a key. */
export const acceptOfKey = (key: string): string =>
  createHash("sha1")
    .update(key + ACCEPT_GUID)
    .digest("base64");

/** One complete and masked frame of a client. */
export function frameOf(opcode: number, payload: Buffer): Buffer {
  const { length } = payload;
  const extended = length < 126 ? 0 : length < 65_536 ? 2 : 8;
  const head = Buffer.alloc(2 + extended);
  head[0] = 0x80 | opcode;
  head[1] = 0x80 | (extended === 0 ? length : extended === 2 ? 126 : 127);
  if (extended === 2) head.writeUInt16BE(length, 2);
  if (extended === 8) head.writeBigUInt64BE(BigInt(length), 2);
  const mask = randomBytes(MASK_BYTES);
  const masked = Buffer.from(payload);
  for (let i = 0; i < masked.length; i++) masked[i]! ^= mask[i % MASK_BYTES]!;
  return Buffer.concat([head, mask, masked]);
}

/** One message, or one control frame. */
export interface Message {
  opcode: number;
  payload: Buffer;
}

/** Reads the frames of a server. Joins the fragments of a message. */
export class FrameReader {
  #buffered: Buffer = Buffer.alloc(0);
  #fragments: Buffer[] = [];
  /** Bytes of the fragments. */
  #size = 0;
  #opcode = 0;

  /** Complete messages, in order. @throws Error if the server breaks the protocol or a message is too long */
  feed(chunk: Buffer): Message[] {
    this.#buffered = this.#buffered.length === 0 ? chunk : Buffer.concat([this.#buffered, chunk]);
    const messages: Message[] = [];
    for (let frame = this.#next(); frame !== undefined; frame = this.#next()) {
      const message = this.#join(frame);
      if (message !== undefined) messages.push(message);
    }
    return messages;
  }

  #next(): (Message & { isLast: boolean }) | undefined {
    const bytes = this.#buffered;
    if (bytes.length < 2) return undefined;
    const [first, second] = [bytes[0]!, bytes[1]!];
    if ((first & 0x70) !== 0 || (second & 0x80) !== 0)
      throw new Error("the server sent a WebSocket frame with wrong bits");
    const short = second & 0x7f;
    const start = 2 + (short === 126 ? 2 : short === 127 ? 8 : 0);
    if (bytes.length < start) return undefined;
    const long = short === 127 ? bytes.readBigUInt64BE(2) : BigInt(short === 126 ? bytes.readUInt16BE(2) : short);
    const opcode = first & 0x0f;
    const limit = opcode >= OPCODE.close ? MAX_CONTROL_BYTES : MAX_FRAME_BYTES;
    if (long > limit) throw new Error(`the server sent a WebSocket frame of ${long} bytes; the limit is ${limit}`);
    const end = start + Number(long);
    if (bytes.length < end) return undefined;
    this.#buffered = bytes.subarray(end);
    return { opcode, payload: bytes.subarray(start, end), isLast: (first & 0x80) !== 0 };
  }

  #join({ opcode, payload, isLast }: Message & { isLast: boolean }): Message | undefined {
    if (opcode >= OPCODE.close) return { opcode, payload };
    const isFirst = this.#fragments.length === 0;
    if (isFirst === (opcode === OPCODE.continuation))
      throw new Error("the server sent a WebSocket fragment out of order");
    if (isFirst) this.#opcode = opcode;
    this.#fragments.push(payload);
    this.#size += payload.length;
    if (this.#fragments.length > MAX_FRAGMENTS)
      throw new Error(`the server sent a WebSocket message of more than ${MAX_FRAGMENTS} fragments`);
    if (this.#size > MAX_FRAME_BYTES)
      throw new Error(`the server sent a WebSocket message above ${MAX_FRAME_BYTES} bytes`);
    if (!isLast) return undefined;
    const whole = { opcode: this.#opcode, payload: Buffer.concat(this.#fragments) };
    this.#fragments = [];
    this.#size = 0;
    return whole;
  }
}
