"""moto's S3 server with the arguments of `weed server`. It keeps all in memory, and asks nobody for a key."""

import sys

sys.path.insert(0, "/opt/s3")
from moto.server import main

(port,) = [word.partition("=")[2] for word in sys.argv if word.startswith("-s3.port=")]
main(["-H", "0.0.0.0", "-p", port])
