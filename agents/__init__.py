"""Who acts: engines, scripts and oracles behind one small interface, and the rollouts that drive them."""
