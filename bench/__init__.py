"""What the gateway costs beside the least that any Python gateway could: `make bench`. See README.md."""
