"""Other projects on the same work: each in an environment of its own, run as a process in turn with ours."""
