"""One file per model family: which networks make the model, and what its manifest says."""
