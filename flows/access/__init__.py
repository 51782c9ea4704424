"""Who may see this project's servers and pages: its owner, by a secret or by a link that is good once."""
