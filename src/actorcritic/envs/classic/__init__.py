"""The classic-control tasks, step for step as Gymnasium has them."""
