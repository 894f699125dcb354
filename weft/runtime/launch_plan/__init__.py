"""The start plan: what will be started, decided from headers and numbers before any rank runs."""
