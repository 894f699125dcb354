"""The command line: commands, their options and terminal output. The only package that prints."""
