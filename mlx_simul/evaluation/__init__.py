"""Quality and latency over a test set: sources through real sessions, recorded, scored, drawn."""
