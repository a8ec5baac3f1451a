import { connect, type Socket } from "node:net";
import { listen } from "./raw.ts";

/** The reaction of an upstream proxy to a CONNECT: `authority` is its target, `head` the whole head. */
export type Play = (socket: Socket, authority: string, head: string) => void;

/** Connects to the target as a proxy does, and relays. Only to loopback: a name would leave this machine as a DNS query. */
export const relays =
  (answer = "HTTP/1.1 200 Connection established\r\n\r\n"): Play =>
  (socket, authority) => {
    const { hostname, port } = new URL(`http://${authority}`);
    const host = hostname.replace(/[[\]]/g, "");
    if (!/^127\.|^::1$/.test(host)) throw new Error(`this upstream proxy does not connect to ${authority}`);
    const far = connect({ host, port: Number(port || 80), allowHalfOpen: true });
    far.on("error", () => socket.destroy());
    socket.on("close", () => far.destroy());
    far.once("connect", () => {
      socket.write(answer);
      socket.pipe(far).pipe(socket);
    });
  };

/** Sends bytes, and nothing else. */
export const sends =
  (bytes: string): Play =>
  (socket) => {
    socket.write(bytes, "latin1");
  };

/** An upstream proxy on loopback whose behaviour the test chooses, and everything that it received. */
export async function startHop(play: Play = relays()) {
  const state = { play, heads: [] as string[], wire: "", open: 0 };
  const server = await listen((socket) => {
    state.open++;
    socket.once("close", () => state.open--);
    socket.on("end", () => socket.end());
    let head = "";
    const onData = (chunk: Buffer) => {
      head += chunk.toString("latin1");
      if (!head.includes("\r\n\r\n")) return;
      socket.off("data", onData);
      state.heads.push(head);
      state.play(socket, /^CONNECT (\S+) /.exec(head)?.[1] ?? "", head);
    };
    socket.on("data", (chunk) => {
      state.wire += chunk.toString("latin1");
    });
    socket.on("data", onData);
  });
  return { ...server, state, url: `http://127.0.0.1:${server.port}` };
}
