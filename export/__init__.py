"""From a checkpoint to a bundle: read, record, emit, write. Never imports PyTorch."""
