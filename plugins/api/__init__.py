"""Stubs generated from protos/ by tools/protogen.py. Change those, not these."""
