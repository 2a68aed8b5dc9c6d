"""The layer that every daemon stands on: lifecycle, sockets, registration, state. Knows no plugin."""
