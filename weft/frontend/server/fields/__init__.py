"""Which fields of requests are heeded, which change nothing, which are refused."""
