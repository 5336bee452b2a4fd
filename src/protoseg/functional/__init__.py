"""Pure functions: tensors in, tensors out; no state, torch alone."""
