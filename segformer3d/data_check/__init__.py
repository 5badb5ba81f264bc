"""The data gate: what a dataset folder holds, what is wrong with it, and which cases are to be left out."""
