/** Loaded into a proxy under test (`node --import`): on SIGUSR2 it creates an unhandled rejection. */
process.on("SIGUSR2", () => {
  void Promise.reject(new Error("a fault of the test"));
});
