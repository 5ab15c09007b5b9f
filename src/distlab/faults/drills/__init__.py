"""Recovery drills: break a real run, watch the framework bring it back, and report what that cost."""
