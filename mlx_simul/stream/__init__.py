"""One stream: its turns, in a row, and what is kept of them on a disk."""
