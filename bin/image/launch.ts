// Entry point in the image, without the shell of bin/outrider: starts the program of the first argument, or of its own name. The
// image and the chart set the flags of V8: a running process can no longer choose the size of its young generation.
const [, name = "", command] = process.argv;
const isTool = command === "get" || command === "egress" || /(^|[/\\])kubectl-egress(\.js)?$/.test(name);
if (command === "operator") await import("../../operator/main.ts");
else if (isTool) await import("../../operator/tools/main.ts");
else await import("../../proxy/main.ts");
