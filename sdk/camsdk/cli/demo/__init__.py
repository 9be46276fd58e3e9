"""``camctl demo``: the main job, all in one, by the same processes and calls that a user has.

The cloud (``camctl serve``) and the camera (``camctl agent run``) run as processes of their own;
the demo talks to them as any application does, through the client, and measures from outside.
"""
