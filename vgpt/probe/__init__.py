"""What a mixer can do: small models of each variant trained on tasks, with equal effort, and the card of what came."""
