// Entry point in the image and in packages, without the shell of bin/outrider: starts the program of the first argument, or of its own
// name. The image and the chart set the flags of V8: a running process can no longer choose the size of its young generation.
// No `await`: a single executable is CommonJS, which has none here.
const [, name = "", command] = process.argv;
const isTool = command === "get" || command === "egress" || /(^|[/\\])kubectl-egress(\.js)?$/.test(name);
if (command === "operator") void import("../../operator/main.ts");
else if (isTool) void import("../../operator/tools/main.ts");
else void import("../../proxy/main.ts");
