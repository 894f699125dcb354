"""Paths of other servers, and what this one has in their place."""

from __future__ import annotations

from collections.abc import Mapping

INSTEAD: Mapping[str, str] = {
    "/api/chat": "/v1/chat/completions", "/api/generate": "/v1/completions", "/api/tags": "/v1/models",
    "/api/show": "/v1/models", "/api/version": "/version", "/api/ps": "/v1/models", "/completion": "/v1/completions",
    "/generate": "/v1/completions", "/generate_stream": "/v1/completions", "/infill": "/v1/completions",
    "/v1/complete": "/v1/messages", "/v1/chat": "/v1/chat/completions", "/messages": "/v1/messages",
    "/responses": "/v1/responses", "/models": "/v1/models", "/v1/tokenize": "/tokenize",
    "/v1/detokenize": "/detokenize", "/v1/health": "/health", "/props": "/v1/models", "/info": "/v1/models",
    "/get_model_info": "/v1/models", "/get_server_info": "/ready", "/slots": "/metrics", "/v1/metrics": "/metrics",
}  # fmt: skip
"""What has the same purpose here."""
NOT_HERE: Mapping[str, str] = {
    "/v1/embeddings": "embeddings", "/embeddings": "embeddings", "/embedding": "embeddings", "/api/embed": "embeddings",
    "/pooling": "embeddings", "/classify": "classification", "/score": "scores", "/rerank": "reranking",
    "/v1/rerank": "reranking", "/v2/rerank": "reranking", "/v1/audio": "audio", "/v1/images": "images",
    "/v1/moderations": "moderation", "/v1/files": "files", "/v1/uploads": "files", "/v1/batches": "batches",
    "/v1/messages/batches": "batches", "/v1/fine_tuning": "training", "/v1/assistants": "assistants",
    "/v1/threads": "assistants", "/v1/vector_stores": "stores of vectors", "/v1/conversations": "conversations",
    "/v1/realtime": "realtime sessions", "/v1/load_lora_adapter": "LoRA adapters",
}  # fmt: skip
"""What weft does not do at all; also below these paths."""


def hint(path: str) -> str:
    """What to say of a path that there is not; empty where nothing is known of it."""
    path = path.rstrip("/")
    if path.startswith("/v1/v1/"):
        return "; the client adds /v1 itself: its base URL must end before it"
    if path in INSTEAD:
        return f"; this server has {INSTEAD[path]}"
    above = path
    while above:
        if above in NOT_HERE:
            return f"; this server has no {NOT_HERE[above]}"
        above = above.rpartition("/")[0]
    return ""
