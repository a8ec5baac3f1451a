import { once } from "node:events";
import { connect } from "node:net";

const TIMEOUT_MS = 10_000;
const { METRICS_URL, WEBHOOK_HOST, WEBHOOK_PORT } = process.env;
const response = await fetch(METRICS_URL, { signal: AbortSignal.timeout(TIMEOUT_MS) });
const policies = /^outrider_operator_policies (\d+)$/m.exec(await response.text());
if (policies === null) throw new Error(`${METRICS_URL} is not the operator's: status ${response.status}`);
console.log(`an operator answers, it knows ${policies[1]} policies`);
if (WEBHOOK_HOST !== undefined) {
  const socket = connect({ host: WEBHOOK_HOST, port: Number(WEBHOOK_PORT) });
  await once(socket, "connect", { signal: AbortSignal.timeout(TIMEOUT_MS) });
  socket.destroy();
  console.log(`${WEBHOOK_HOST}:${WEBHOOK_PORT} takes connections`);
}
