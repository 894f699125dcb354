"""Reading a config.json: fields of all families, rotary embedding, and the text part of models that read more."""
