import { connect } from "node:net";
import { cell, marked, OWN_PASSWORDS, PORT, PROBE_ADDRESS, receiverAddress, receiverNumber } from "./world.ts";

/** Deliveries of a well-behaved client to honest receivers. They must succeed under any load. */

const PROBE_MS = 10_000;
const BODY_BYTES = 4096;
/** Numbers of probes, far from those of hostile requests. */
let next = 0xf0000000;

const auth = `Proxy-Authorization: Basic ${Buffer.from(`probe:${OWN_PASSWORDS.probe}`).toString("base64")}\r\n`;

/** Sends `first`, and `then` after the head of the answer. Returns all bytes until `done` holds or the connection ends. */
function converse(port: number, first: string, then: Buffer | null, done: (text: string) => boolean): Promise<string> {
  return new Promise((resolve) => {
    const socket = connect({ host: "127.0.0.1", port, localAddress: PROBE_ADDRESS, autoSelectFamily: false });
    let text = "";
    let sent = then === null;
    const finish = (note: string) => {
      clearTimeout(timer);
      socket.destroy();
      resolve(text + note);
    };
    const timer = setTimeout(() => finish(`[nothing more within ${PROBE_MS} ms]`), PROBE_MS);
    socket.on("connect", () => socket.write(first));
    socket.on("data", (chunk) => {
      text += chunk.toString("latin1");
      if (!sent && text.includes("\r\n\r\n")) {
        sent = true;
        socket.write(then!);
      }
      if (done(text)) finish("");
    });
    socket.on("end", () => finish("[FIN]"));
    socket.on("error", (error: NodeJS.ErrnoException) => finish(`[${error.code}]`));
  });
}

async function tunnelled(port: number, authority: string): Promise<string> {
  const payload = marked(cell("i", next++), BODY_BYTES);
  const want = `HTTP/1.1 200 Connection established\r\n\r\n${payload.toString("latin1")}`;
  const got = await converse(
    port,
    `CONNECT ${authority} HTTP/1.1\r\nHost: ${authority}\r\n${auth}\r\n`,
    payload,
    (text) => text.length >= want.length,
  );
  return got === want ? "" : `CONNECT ${authority}: ${summary(got)}`;
}

async function posted(port: number, authority: string): Promise<string> {
  const number = next++;
  const body = marked(cell("i", number), BODY_BYTES);
  const path = `/${number.toString(16)}/${BODY_BYTES}`;
  const head = `POST http://${authority}${path} HTTP/1.1\r\nHost: ${authority}\r\n${auth}Content-Length: ${body.length}\r\n`;
  const whole = (text: string) => text.endsWith(body.toString("latin1"));
  const got = await converse(port, `${head}\r\n${body.toString("latin1")}`, null, whole);
  return /^HTTP\/1\.1 200 OK\r\n/.test(got) && whole(got) ? "" : `POST ${authority}: ${summary(got)}`;
}

const summary = (text: string) =>
  `${text.split("\r\n")[0]!.slice(0, 160)} … ${text.slice(-60).replace(/[^ -~]/g, ".")}`;

/** One delivery per way to name a target. */
export async function probe(port: number): Promise<{ failures: string[]; ms: number[]; requests: number }> {
  const name = (kind: "echo" | "http") => `r${receiverNumber(kind)}.p${next}.good.test:${PORT}`;
  const deliveries = [
    () => tunnelled(port, `${receiverAddress(receiverNumber("echo"))}:${PORT}`),
    () => posted(port, `http.hosts.test:${PORT}`),
    () => tunnelled(port, name("echo")),
    () => posted(port, name("http")),
  ];
  const failures: string[] = [];
  const ms = await Promise.all(
    deliveries.map(async (deliver) => {
      const began = performance.now();
      const failure = await deliver();
      if (failure !== "") failures.push(failure);
      return performance.now() - began;
    }),
  );
  return { failures, ms, requests: deliveries.length };
}
