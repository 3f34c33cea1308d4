"""Triton kernels for GPUs: the mirror of rocforge.cpu. Imported only where a GPU, or the interpreter, is used."""
