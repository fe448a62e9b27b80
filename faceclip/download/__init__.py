"""Fetching the released weights; nothing here is imported by the nodes."""
