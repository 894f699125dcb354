"""The commands of weft, one file each. The only package that prints."""
