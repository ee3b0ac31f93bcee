"""The loop, evaluation and checkpoints on torch and Accelerate; knows no data set, model or loss by name."""
