"""Other people's interfaces to our environments, and ours to theirs; each is imported only when used."""
