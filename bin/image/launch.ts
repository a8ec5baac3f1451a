// What `node` starts in the image; bin/outrider's part there. V8's flags are the image's and the chart's: a running
// process cannot choose the size of its young generation any more.
await (process.argv[2] === "operator" ? import("../../operator/main.ts") : import("../../proxy/main.ts"));
