import type { IncomingMessage } from "node:http";
import { request } from "node:https";
import { Duplex } from "node:stream";
import type { ClusterCredentials } from "./credentials.ts";
import { ApiError, errorOfAnswer } from "./error.ts";
import { type Call, deadlineOf, errorOf, nameOf } from "./http.ts";
import { acceptOfKey, FrameReader, frameOf, type Message, newKey, OPCODE } from "./websocket.ts";

/** Subprotocol of port-forwarding by WebSocket: channel 0 is data, channel 1 is an error text (kubelet, websocket.go). */
const PROTOCOL = "v4.channel.k8s.io";
const DATA = 0;
const ERROR = 1;
/** Each channel begins with the number of the port. */
const PORT_BYTES = 2;
/** Limit of the body of a refusal in bytes. */
const MAX_REFUSAL_BYTES = 65_536;

/** Target of a port-forward. */
export interface ForwardTarget {
  namespace: string;
  pod: string;
  port: number;
}

/** Bytes from and to a port of a pod. */
class PodStream extends Duplex {
  readonly #socket: Duplex;
  readonly #reader = new FrameReader();
  readonly #begun = new Set<number>();
  #hasEnded = false;

  constructor(socket: Duplex, head: Buffer) {
    super();
    this.#socket = socket;
    socket.on("data", (chunk: Buffer) => this.#receive(chunk));
    socket.on("error", (error) => this.destroy(error));
    socket.on("close", () => this.#finish());
    if (head.length > 0) this.#receive(head);
  }

  #finish(): void {
    if (!this.#hasEnded) this.push(null);
    this.#hasEnded = true;
  }

  #receive(chunk: Buffer): void {
    try {
      for (const message of this.#reader.feed(chunk)) this.#take(message);
    } catch (error) {
      this.destroy(error as Error);
    }
  }

  #take({ opcode, payload }: Message): void {
    // A server that sends pings and reads nothing gets no more of them.
    if (opcode === OPCODE.ping && !this.#socket.writableNeedDrain) this.#socket.write(frameOf(OPCODE.pong, payload));
    if (opcode === OPCODE.close) this.#finish();
    if (this.#hasEnded || opcode !== OPCODE.binary || payload.length === 0) return;
    const channel = payload[0]!;
    const isFirst = !this.#begun.has(channel);
    this.#begun.add(channel);
    const bytes = payload.subarray(1 + (isFirst ? PORT_BYTES : 0));
    if (bytes.length === 0) return;
    if (channel === ERROR) this.destroy(new Error(bytes.toString()));
    else if (channel === DATA && !this.push(bytes)) this.#socket.pause();
  }

  override _read(): void {
    this.#socket.resume();
  }

  override _write(chunk: Buffer, _encoding: string, done: (error?: Error | null) => void): void {
    this.#socket.write(frameOf(OPCODE.binary, Buffer.concat([Buffer.of(DATA), chunk])), done);
  }

  override _final(done: (error?: Error | null) => void): void {
    // A close frame would also end the other direction.
    done();
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#socket.destroy();
    done(error);
  }
}

async function refusalOf(call: Call, response: IncomingMessage): Promise<ApiError> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > MAX_REFUSAL_BYTES) break;
    chunks.push(chunk);
  }
  return errorOfAnswer(nameOf(call), response.statusCode!, Buffer.concat(chunks).toString());
}

/**
 * Opens a stream to a port of a pod through the API server. The caller needs `get` on `pods/portforward`, and from
 * Kubernetes 1.35 on also `create` (KEP-4006: a WebSocket is a GET). @throws ApiError if it does not open in time
 */
export async function forwardPort(
  credentials: ClusterCredentials,
  { namespace, pod, port }: ForwardTarget,
  options: { userAgent: string; timeoutMs: number; signal?: AbortSignal | undefined },
): Promise<Duplex> {
  const parts = ["/api/v1/namespaces", encodeURIComponent(namespace), "pods", encodeURIComponent(pod), "portforward"];
  const path = `${parts.join("/")}?ports=${port}`;
  const call: Call = { method: "GET", path, timeoutMs: options.timeoutMs, signal: options.signal };
  const deadline = deadlineOf(call);
  try {
    const { server } = credentials;
    const { headers, ...tls } = await credentials.options();
    const key = newKey();
    return await new Promise((resolve, reject) => {
      const outgoing = request({
        ...tls,
        agent: false,
        method: "GET",
        hostname: server.hostname.replace(/^\[|\]$/g, ""),
        port: server.port === "" ? 443 : Number(server.port),
        path: server.pathname.replace(/\/$/, "") + path,
        headers: {
          ...(headers as { [name: string]: string }),
          "User-Agent": options.userAgent,
          Connection: "Upgrade",
          Upgrade: "websocket",
          "Sec-WebSocket-Version": "13",
          "Sec-WebSocket-Key": key,
          "Sec-WebSocket-Protocol": PROTOCOL,
        },
        signal: deadline.signal,
      });
      outgoing.on("upgrade", (response, socket, head) => {
        const { "sec-websocket-accept": accept, "sec-websocket-protocol": protocol } = response.headers;
        if (accept === acceptOfKey(key) && protocol === PROTOCOL) {
          resolve(new PodStream(socket, head));
          return;
        }
        socket.destroy();
        reject(new ApiError(0, "BadAnswer", `${nameOf(call)}: the server does not support ${PROTOCOL}`));
      });
      outgoing.on("response", (response) => {
        refusalOf(call, response).then(reject, reject);
      });
      outgoing.on("error", reject);
      outgoing.end();
    });
  } catch (error) {
    throw errorOf(call, error, deadline.signal);
  } finally {
    deadline.clear();
  }
}
