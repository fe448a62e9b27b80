"""What the proof found: results, predictions, tables and plots."""
