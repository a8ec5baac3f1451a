// Entry point in the image and in packages, without the shell of bin/outrider: starts the program of the first argument. The image and the
// chart set the flags of V8: a running process can no longer choose the size of its young generation.
// No `await`: a single executable is CommonJS, which has none here.
void (process.argv[2] === "operator" ? import("../../operator/main.ts") : import("../../proxy/main.ts"));
