"""One file, one paper, one training step. A method knows networks and losses, never data or the engine."""
