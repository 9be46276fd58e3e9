"""From the bus to what people ask for: stored rows, live events, appearance search.

``screen`` checks a batch, ``writer`` stores it, ``worker`` is the loop around both, ``feed`` hands
new events to subscribers, ``search`` finds tracks by their looks.
"""
