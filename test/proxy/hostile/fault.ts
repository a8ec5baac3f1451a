/** Loaded into a proxy under test (`node --import`): on SIGUSR2 a promise is rejected and nobody handles it. */
process.on("SIGUSR2", () => {
  void Promise.reject(new Error("a fault of the test"));
});
