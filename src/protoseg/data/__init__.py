"""From files to crops on a device. Knows nothing of methods."""
