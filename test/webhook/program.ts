import { startReplica } from "./shared.ts";

/** A replica as a process of its own: `program.ts KUBECONFIG PORT`. It ends at SIGTERM as the operator does. */
const [, , config, port] = process.argv;
const replica = await startReplica({ config: config!, listen: { host: "127.0.0.1", port: Number(port) } });
await replica.until("a certificate", () => replica.ready);
console.log("ready");
process.once("SIGTERM", () => {
  replica.stop().then(
    () => process.exit(0),
    (error: unknown) => {
      console.error(error);
      process.exit(1);
    },
  );
});
