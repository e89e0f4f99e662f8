"""The compressor node and its codecs."""
