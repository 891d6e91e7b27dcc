"""Core ML packages from recorded networks: layouts, compression, receipts. Needs coremltools, no PyTorch."""
