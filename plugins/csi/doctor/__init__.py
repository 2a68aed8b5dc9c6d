"""`nodeplug csi doctor`: what does not fit together on this node; found, explained, never mended."""
