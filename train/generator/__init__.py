"""What only the second stage needs: data in latents, module, losses, priors."""
