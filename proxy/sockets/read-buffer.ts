const READ_BUFFER_BYTES = 65_536;

/**
 * What sockets with `onread` read into, all of them: libuv fills it and calls back at once, and whoever is called
 * copies before it returns.
 */
export const READ_BUFFER = Buffer.allocUnsafeSlow(READ_BUFFER_BYTES);

/** The first `length` bytes of {@link READ_BUFFER}, as a copy. */
export function copyOut(length: number): Buffer {
  return Buffer.from(READ_BUFFER.subarray(0, length));
}
