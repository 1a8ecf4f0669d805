"""Data sets: recorded episodes, what may be wrong with them, and the places where they are kept."""
