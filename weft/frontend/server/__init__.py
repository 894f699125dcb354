"""HTTP: OpenAI's endpoints over the engine. No torch."""
