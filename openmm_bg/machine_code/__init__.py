"""Vector arithmetic written as machine code through LLVM, for kernels that work on many configurations at once."""
