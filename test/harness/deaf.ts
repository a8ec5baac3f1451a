import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

/** A listener whose queue is full, so that a further SYN is never answered; ended by killing it. */
export async function deafListener(): Promise<{ port: number; hear: () => void; close: () => void }> {
  const script =
    "const s=require('net').createServer(c=>c.on('error',()=>{}));s.listen({port:0,host:'127.0.0.1',backlog:1},()=>console.log(s.address().port))";
  const child: ChildProcess = spawn(process.execPath, ["-e", script], { stdio: ["ignore", "pipe", "inherit"] });
  const [line] = (await once(child.stdout!, "data")) as [Buffer];
  const port = Number(String(line));
  child.kill("SIGSTOP");
  const fillers: Socket[] = [];
  // Linux accepts backlog + 1; later connections stay in SYN-SENT.
  for (let open = true; open; ) {
    const socket = connect(port, "127.0.0.1");
    socket.on("error", () => {});
    fillers.push(socket);
    open = await Promise.race([once(socket, "connect").then(() => true), sleep(300).then(() => false)]);
    assert.ok(fillers.length < 20, "the queue never fills");
  }
  fillers.pop()!.destroy();
  const close = () => {
    for (const socket of fillers) socket.destroy();
    child.kill("SIGKILL");
  };
  /** Accepts waiting and new connections. */
  const hear = () => {
    for (const socket of fillers) socket.destroy();
    child.kill("SIGCONT");
  };
  return { port, hear, close };
}

/** Connections to a port that wait for their SYN-ACK, as the kernel counts them. */
function dialling(port: number): number {
  const hex = port.toString(16).toUpperCase().padStart(4, "0");
  const rows = readFileSync("/proc/net/tcp", "utf8").split("\n");
  return rows.filter((row) => new RegExp(`^ *\\d+: \\S+ 0100007F:${hex} 02 `).test(row)).length;
}

/** Waits until this many connections to a port wait for their SYN-ACK. */
export async function untilDialling(port: number, count: number): Promise<void> {
  for (let i = 0; dialling(port) !== count; i++) {
    assert.ok(i < 100, `${dialling(port)} dials, not ${count}`);
    await sleep(10);
  }
}
