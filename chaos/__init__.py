"""What the gateway does when its surroundings fail (`make chaos`), and whether it grows (`make soak`)."""
