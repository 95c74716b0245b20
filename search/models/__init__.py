"""Early-exit Vision Transformers: timm backbones behind an adapter, exit heads, checkpoints."""
