"""Tools that are no functions, as functions: custom ones, namespaces, and those that a client brings along."""
