const READ_BUFFER_BYTES = 65_536;

/**
 * The read buffer of all sockets with `onread`: libuv fills it and calls back immediately. The callback copies the
 * bytes that it keeps before it returns.
 */
export const READ_BUFFER = Buffer.allocUnsafeSlow(READ_BUFFER_BYTES);

/** The first `length` bytes of {@link READ_BUFFER}, as a copy. */
export function copyOut(length: number): Buffer {
  return Buffer.from(READ_BUFFER.subarray(0, length));
}
