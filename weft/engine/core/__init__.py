"""engine: continuous batching, paged blocks, prefix cache. Imports without torch; takes an Executor."""
