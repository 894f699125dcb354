"""What supervisor and ranks share: channel, messages, status page."""
