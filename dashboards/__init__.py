"""Presentation: figures and pages. Neither torch nor timm is needed here."""
