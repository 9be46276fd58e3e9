"""A model's process that says what it is told to: its "model" is a JSON list of raw replies.

The first answers the model itself, each further one an inference. ``null`` dies, a list of one
number sleeps as many seconds.
"""

import json
import os
import socket
import sys
import time

from camagent.runtimes.channel import Channel


def main() -> None:
    settings = json.loads(sys.argv[1])
    channel = Channel(socket.socket(fileno=settings["socket_fd"]), settings["model_limit_bytes"])
    for reply in json.loads(channel.receive()):
        if reply is None:
            print("out of lies", file=sys.stderr)
            os._exit(3)
        if isinstance(reply, list):
            time.sleep(reply[0])
            continue
        channel.send(reply.encode("latin-1"))
        channel.receive()


if __name__ == "__main__":
    main()
