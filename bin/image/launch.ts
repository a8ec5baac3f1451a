// Entry point of the image, with the role of bin/outrider. The image and the chart set V8's flags, because a running
// process can no longer change the size of its young generation.
await (process.argv[2] === "operator" ? import("../../operator/main.ts") : import("../../proxy/main.ts"));
