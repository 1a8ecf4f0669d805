"""What everything stands on: the shared vocabulary, hyperparameters, files and words."""
