"""Images and advisory feeds. Empty until image scanning is built."""
