"""Value types of the camera: frames, detections, tracks, events, and geometry over them.

Values are frozen; arrays stand side by side; time comes from the frame, never from the clock.
"""
