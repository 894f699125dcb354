"""HTTP: sockets, connections, access, limits, signals."""
