"""What serves connections: one worker in the proxy's own process, or several as processes that it supervises."""
