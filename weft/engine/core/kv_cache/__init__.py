"""kv_cache: KV blocks of one attention-dp group and the prefix cache over them."""
