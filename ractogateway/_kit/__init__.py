"""What all provider kits share: the way to a cache, a request's identity, replays, SDK clients. Names no SDK."""
