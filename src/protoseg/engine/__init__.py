"""Training, evaluation and prediction. The only code that imports Lightning."""
