"""How any run lives: its loop, its processes, its checkpoints, its log."""
