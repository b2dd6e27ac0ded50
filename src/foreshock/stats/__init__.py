"""Statistics on numbers: from Gram matrices, samples and logits to estimates. No torch."""
