"""Heat maps of expert loads, as numbers and as image files."""
