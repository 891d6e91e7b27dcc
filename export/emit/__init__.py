"""The operations that networks are written against, the graph they record, and the emitters."""
