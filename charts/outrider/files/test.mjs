import { once } from "node:events";
import { connect } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

const TIMEOUT_MS = 10_000;
const PAUSE_MS = 500;
const { METRICS_URL, WEBHOOK_HOST, WEBHOOK_PORT, PATIENCE_MS = "60000" } = process.env;
const end = Date.now() + Number(PATIENCE_MS);

/** Retries, since operators may still be starting and Services may not have their endpoints yet. */
async function eventually(check) {
  for (;;) {
    try {
      return await check();
    } catch (error) {
      if (Date.now() > end) throw error;
      await sleep(PAUSE_MS);
    }
  }
}

await eventually(async () => {
  const response = await fetch(METRICS_URL, { signal: AbortSignal.timeout(TIMEOUT_MS) });
  const policies = /^outrider_operator_policies (\d+)$/m.exec(await response.text());
  if (policies === null)
    throw new Error(`${METRICS_URL} is not the metrics page of the operator: status ${response.status}`);
  console.log(`an operator answers and watches ${policies[1]} policies`);
});
if (WEBHOOK_HOST !== undefined) {
  await eventually(async () => {
    const socket = connect({ host: WEBHOOK_HOST, port: Number(WEBHOOK_PORT) });
    try {
      await once(socket, "connect", { signal: AbortSignal.timeout(TIMEOUT_MS) });
    } finally {
      socket.destroy();
    }
  });
  console.log(`${WEBHOOK_HOST}:${WEBHOOK_PORT} accepts connections`);
}
