"""From speech to words: audio in; words that stay, with times, and a tail that may change, out."""
