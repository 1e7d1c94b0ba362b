"""How the policy learns: models, batches, scores, advantages, losses, collectors and trainers."""
