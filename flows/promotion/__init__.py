"""The gate between challenger and champion, and the champion's moves."""
