"""`raycls demo`: everything once. run carries the parts out; report has the result and its page."""
