"""Training a member's replicas: side by side or divided among processes, shown, interrupted and resumed."""
