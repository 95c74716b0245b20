"""What a worker does: claim, propose, measure, record."""
