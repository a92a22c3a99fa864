"""The bus on memory under a seed: one number decides what happens, in which order, and what breaks."""
