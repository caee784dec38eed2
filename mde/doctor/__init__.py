"""What `mde doctor` looks at, each check in a process of its own."""
