"""A page for people: chat, the layout at work, and the operations of the HTTP API."""
