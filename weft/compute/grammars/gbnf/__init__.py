"""GBNF and EBNF, grammars of characters, for a grammar library that has a lexer."""
