"""Tool calls and reasoning in an answer's text: forms, grammars, streaming parser, history. No torch, no HTTP."""
