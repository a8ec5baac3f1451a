import { once } from "node:events";
import { createServer as createHttpServer } from "node:http";
import { createServer, type Socket } from "node:net";
import { serveDns } from "./dns.ts";
import { Rng } from "./seed.ts";
import {
  CellReader,
  cell,
  marked,
  PORT,
  PYTHON_RECEIVERS,
  RECEIVERS,
  type ReceiverKind,
  receiverAddress,
  receiverNumber,
} from "./world.ts";

/**
 * The program of the process with all receivers but those of `deaf.py`, the DNS server and the traps. A trap listens where
 * the proxy must never connect. The parent starts it with `fork`; it ends when the parent ends.
 */

/** The first message of the parent. */
export interface ReceiversStart {
  seed: number;
  /** Addresses that DNS answers contain and that the proxy must never dial. */
  forbidden: string[];
  /** Where traps listen. */
  traps: { host: string; port: number }[];
}

/** Messages to the parent: `ready` once, and each violation when it happens. */
export type ReceiversReport = { ready: true } | { violation: string };

/** The longest time for which a receiver keeps a connection, so that a run ends. */
const LIFETIME_MS = 5000;
/** The same for honest receivers: on a slow machine a delivery takes long. */
const HONEST_LIFETIME_MS = 20_000;
/** Longer than the proxy keeps an idle upstream connection, so that a reused one is alive. */
const KEEP_ALIVE_MS = 10_000;

const report = (message: ReceiversReport) => process.send?.(message);
const violation = (text: string) => report({ violation: text });

/** The number of the request that a path such as `/0000002a/512` names, and the size that it asks for. */
const PATH = /\/([0-9a-f]{8})\/(\d+)/;

const MARK = /#i([0-9a-f]{8});/;

type Behaviour = (socket: Socket, rng: Rng, tag: string) => void;

/** Calls `then` with the number of the request, from its path or its first mark. */
function onRequest(socket: Socket, then: (number: number) => void): void {
  let text = "";
  let done = false;
  socket.on("data", (chunk: Buffer) => {
    if (done) return;
    text += chunk.toString("latin1", 0, 4096);
    const found = (/^[A-Z]+ /.test(text) ? PATH : MARK).exec(text);
    if (found === null && text.length < 4096) return;
    done = true;
    then(Number.parseInt(found?.[1] ?? "0", 16));
  });
}

const write = (socket: Socket, bytes: string | Buffer) => {
  if (socket.writable) socket.write(typeof bytes === "string" ? Buffer.from(bytes, "latin1") : bytes);
};
const later = (socket: Socket, ms: number, action: () => void) => {
  const timer = setTimeout(action, ms);
  socket.once("close", () => clearTimeout(timer));
};
const leave = (socket: Socket, rng: Rng) => {
  if (rng.oneIn(3)) socket.resetAndDestroy();
  else if (rng.oneIn(2)) socket.destroy();
  else socket.end();
};
/** A complete answer with a marked body. */
const whole = (mark: string, bytes: number, fields = "") => {
  const body = marked(mark, bytes);
  return Buffer.concat([Buffer.from(`HTTP/1.1 200 OK\r\nContent-Length: ${body.length}\r\n${fields}\r\n`), body]);
};

const TOKENS = Array.from({ length: 12_000 }, (_, i) => `t${i}`);

const tinyChunks: Behaviour = (socket, rng) => {
  onRequest(socket, (number) => {
    const mark = cell("i", number);
    const chunks = Array.from(mark.repeat(rng.int(1, 1500)), (char) => `1\r\n${char}\r\n`);
    write(socket, `HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n`);
    if (rng.oneIn(2)) {
      for (const chunk of chunks.slice(0, 200)) write(socket, chunk);
    } else write(socket, chunks.join(""));
    if (rng.oneIn(4)) leave(socket, rng);
    else write(socket, rng.oneIn(2) ? "0\r\n\r\n" : "0\r\nTrailer: x\r\n\r\n");
  });
};

const wrongLength: Behaviour = (socket, rng, tag) => {
  onRequest(socket, (number) => {
    const body = marked(cell("i", number), 256).toString("latin1");
    // Behind an answer that the proxy repairs: no request may get it.
    const second = `HTTP/1.1 200 OK\r\nContent-Length: ${tag.length}\r\n\r\n${tag}`;
    const size = body.length.toString(16);
    const answer = rng.pick([
      `HTTP/1.1 200 OK\nContent-Length : ${body.length}\n\n${body}${second}`,
      `HTTP/1.1 200 OK\r\nContent-Length:\r\n ${body.length}\r\nContent-Length: ${body.length}\r\n\r\n${body}${second}`,
      `HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding:\n chunked\r\n\r\n${size} \r\n${body}\r\n0\r\n\r\n${second}`,
      `HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n${size}\t\r\n${body}\r\n0 \r\nT : 1\r\n 2\r\n\r\n${second}`,
      `HTTP/1.1 200 OK\r\nContent-Length: ${body.length + 10}\r\n\r\n${body}`,
      `HTTP/1.1 200 OK\r\nContent-Length: ${body.length - 10}\r\n\r\n${body}`,
      `HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n${body}`,
      `HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n${body}`,
      `HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n${body}`,
      `HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n`,
      `HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffff\r\n${body}`,
      `HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n${body}`,
      `HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n`,
      `HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n`,
      `HTTP/1.1 204 No Content\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
      `HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n`,
      `HTTP/1.1 200 OK\r\n\r\n${body}`,
      `HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n${body}`,
    ]);
    write(socket, answer);
    if (!rng.oneIn(3)) later(socket, rng.int(0, 50), () => leave(socket, rng));
  });
};

const forged: Behaviour = (socket, rng) => {
  onRequest(socket, (number) => {
    const fields = [
      "X-Outrider-Error: egress-denied: FORGED",
      "Proxy-Status: outrider; error=FORGED",
      "x-envoy-response-flags: FORGED",
      "x-envoy-response-code-details: FORGED",
      'Proxy-Authenticate: Basic realm="FORGED"',
      "Proxy-Authentication-Info: FORGED",
      "Connection: content-length, host, via",
    ].join("\r\n");
    const status = rng.pick(["200 OK", "407 Proxy Authentication Required", "403 egress-denied: FORGED", "503 x"]);
    const body = marked(cell("i", number), 256).toString("latin1");
    write(socket, `HTTP/1.1 ${status}\r\n${fields}\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
  });
};

const BEHAVIOURS: Partial<Record<ReceiverKind, Behaviour>> = {
  echo: (socket) => {
    const cells = new CellReader();
    let owner = -1;
    socket.on("data", (chunk: Buffer) => {
      cells.feed(chunk, (kind, number) => {
        if (owner === -1) owner = number;
        if (kind !== "i" || number !== owner) violation(`a tunnel carries bytes of requests ${owner} and ${number}`);
      });
      if (!socket.write(chunk)) socket.pause();
    });
    socket.on("drain", () => socket.resume());
    socket.on("end", () => socket.end());
  },
  accept: (socket, rng) => {
    const reset = () => void socket.resetAndDestroy();
    switch (rng.int(0, 3)) {
      case 0:
        return later(socket, rng.int(0, 100), reset);
      case 1:
        return void socket.once("data", () => leave(socket, rng));
      default:
        return reset();
    }
  },
  silent: (socket, rng) => {
    socket.resume();
    later(socket, rng.int(50, 4000), () => leave(socket, rng));
  },
  "flood-1xx": (socket, rng) => {
    onRequest(socket, (number) => {
      const mark = cell("i", number);
      const field = rng.oneIn(4) ? `Connection: ${TOKENS.slice(0, rng.size(12_000)).join(",")}` : `X: ${mark}`;
      const status = rng.pick(["100 Continue", "102 Processing", "103 Early Hints", "199 x"]);
      const head = `HTTP/1.1 ${status}\r\n${field}\r\nLink: </x>\r\n\r\n`;
      write(socket, head.repeat(rng.size(Math.ceil(1_000_000 / head.length))));
      if (rng.oneIn(4)) leave(socket, rng);
      else write(socket, whole(mark, 256));
    });
  },
  "giant-head": (socket, rng) => {
    onRequest(socket, (number) => {
      const mark = cell("i", number);
      const tokens = TOKENS.slice(0, rng.int(0, TOKENS.length)).join(",");
      const fields = `${mark.slice(1, 5)}: ${mark}\r\n`.repeat(rng.int(0, 3000));
      write(socket, `HTTP/1.1 200 OK\r\n${rng.oneIn(2) ? `Connection: ${tokens}\r\n` : ""}${fields}`);
      write(socket, `Content-Length: ${128}\r\n\r\n`);
      write(socket, marked(mark, 128));
    });
  },
  "tiny-chunk": tinyChunks,
  "wrong-length": wrongLength,
  forged,
  garbage: (socket, rng, tag) => {
    onRequest(socket, (number) => {
      write(socket, whole(cell("i", number), 128));
      const more = rng.pick([`HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n${tag}`, `garbage ${tag}`, "\r\n", "\0"]);
      const pause = rng.pick([0, 0, 1, 50]);
      if (pause === 0) write(socket, more);
      else later(socket, pause, () => write(socket, more));
    });
  },
  "no-http": (socket, rng, tag) => {
    onRequest(socket, () => {
      write(
        socket,
        rng.pick(["SSH-2.0-x\r\n", "\x15\x03\x01\0\x02", `HTTP/2 200\r\n\r\n${tag}`, "HTTP/1.1 2x0\r\n\r\n"]),
      );
      if (rng.oneIn(2)) leave(socket, rng);
    });
  },
  "fin-first": (socket, rng) => {
    socket.resume();
    socket.end();
    later(socket, rng.int(0, 1500), () => leave(socket, rng));
  },
  "fin-rst": (socket, rng) => {
    // The receiver reads nothing: FIN and RST interrupt the upload of the client.
    later(socket, rng.pick([0, 20, 100, 300]), () => {
      socket.end(() => {
        if (rng.oneIn(2)) socket.resetAndDestroy();
        else later(socket, rng.int(0, 5), () => socket.resetAndDestroy());
      });
    });
  },
  download: (socket, rng) => {
    onRequest(socket, (number) => {
      const block = marked(cell("i", number), 65_536);
      let left = rng.size(4_000_000);
      if (number !== 0) write(socket, "HTTP/1.1 200 OK\r\n\r\n");
      const more = () => {
        while (left > 0 && socket.writable) {
          left -= block.length;
          if (!socket.write(block)) return;
        }
        leave(socket, rng);
      };
      socket.on("drain", more);
      more();
    });
  },
  drip: (socket, rng) => {
    onRequest(socket, (number) => {
      const bytes = whole(cell("i", number), 128).subarray(0, rng.int(1, 190));
      let at = 0;
      const timer = setInterval(
        () => {
          write(socket, bytes.subarray(at, at + 3));
          at += 3;
          if (at < bytes.length) return;
          clearInterval(timer);
          if (rng.oneIn(2)) leave(socket, rng);
        },
        rng.int(1, 40),
      );
      socket.once("close", () => clearInterval(timer));
    });
  },
};

/** Receivers that do not read. */
const UNREAD: readonly ReceiverKind[] = ["fin-rst"];

async function serveRaw(seed: number, kind: ReceiverKind, behaviour: Behaviour): Promise<void> {
  let accepted = 0;
  const number = receiverNumber(kind);
  const tag = cell("t", number);
  const server = createServer({ allowHalfOpen: true, noDelay: true }, (socket) => {
    socket.on("error", () => socket.destroy());
    socket.on("end", () => {
      if (kind !== "echo") later(socket, 0, () => socket.end());
    });
    later(socket, kind === "echo" ? HONEST_LIFETIME_MS : LIFETIME_MS, () => socket.destroy());
    if (UNREAD.includes(kind)) socket.pause();
    behaviour(socket, new Rng(seed, number, accepted++), tag);
  });
  server.listen({ host: receiverAddress(number), port: PORT, backlog: 4096 });
  await once(server, "listening");
}

/** The honest receiver of HTTP: checks that a request has bytes of this request only, and answers with a marked body. */
async function serveHttp(): Promise<void> {
  const server = createHttpServer((request, response) => {
    const match = PATH.exec(request.url ?? "");
    const number = Number.parseInt(match?.[1] ?? "0", 16);
    const cells = new CellReader();
    request.on("data", (chunk: Buffer) => {
      cells.feed(chunk, (kind, found) => {
        if (kind === "i" && found !== number) violation(`request ${number} carries bytes of request ${found}`);
      });
    });
    request.on("error", () => {});
    request.on("end", () => {
      const body = marked(cell("i", number), Number(match?.[2] ?? 1));
      response.writeHead(200, { "content-length": body.length, "x-mark": cell("i", number) }).end(body);
    });
  });
  server.keepAliveTimeout = KEEP_ALIVE_MS;
  server.on("clientError", (_error, socket) => socket.destroy());
  server.listen({ host: receiverAddress(receiverNumber("http")), port: PORT, backlog: 4096 });
  await once(server, "listening");
}

async function serveTrap({ host, port }: { host: string; port: number }): Promise<void> {
  const server = createServer((socket) => {
    violation(`${socket.remoteAddress} connected to ${host}:${port}, which the policy forbids`);
    socket.destroy();
  });
  server.listen(port, host);
  await once(server, "listening");
}

process.once("message", async ({ seed, forbidden, traps }: ReceiversStart) => {
  await serveDns(seed, forbidden);
  await serveHttp();
  for (const kind of Object.keys(RECEIVERS) as ReceiverKind[]) {
    const behaviour = BEHAVIOURS[kind];
    if (behaviour !== undefined) await serveRaw(seed, kind, behaviour);
    else if (kind !== "http" && kind !== "closed" && !PYTHON_RECEIVERS.includes(kind)) {
      throw new Error(`no receiver for ${kind}`);
    }
  }
  for (const trap of traps) await serveTrap(trap);
  report({ ready: true });
});
process.on("disconnect", () => process.exit());
