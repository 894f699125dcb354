"""Host 0's side of the other hosts: their agents, and their ranks as links."""
