"""Backbones behind one view: blocks that an exit can follow."""
