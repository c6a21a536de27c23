"""The read/write loop: it asks for passes and yields events. It knows no arrays."""
