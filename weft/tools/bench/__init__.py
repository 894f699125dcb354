"""Speed of a server as its clients see it: workloads, a streaming client, statistics, comparison of layouts."""
