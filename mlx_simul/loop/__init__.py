"""The read/write loop: it asks for passes and tells events; no arrays."""
