"""Pure mathematics: it knows no algorithm, no environment and no file."""
