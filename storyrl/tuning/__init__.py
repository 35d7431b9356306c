"""How the policy learns: supervised warm start, then KL-penalised policy gradient."""
