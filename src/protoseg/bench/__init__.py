"""`protoseg bench`: a grid of methods, label counts and seeds, each cell a run of its own, and the tables over them."""
