"""How events lie in files: a kind of reader for each format, over bytes that may be packed."""
