"""Options of the commands: the parser, and groups of options that several commands share."""
